//! The commands of the Makefile, as a new user runs them on a machine of their own.

use bulkhead_lab::{Host, node, programs};
use std::time::Duration;

#[test]
fn up_can_be_repeated_and_down_undoes_it() {
    let _alone = node::alone().unwrap();
    let host = Host::start("up").unwrap();
    // As on a machine that has never had a daemon: what the host has of its own for it is taken away again.
    // What the machine itself may have there is hidden, not touched: the host writes to layers of its own.
    host.sh("umount /var/lib/bulkhead; rm -rf /var/lib/bulkhead; ! test -e /var/lib/bulkhead")
        .run()
        .unwrap();
    let rules = "iptables -S; iptables -t nat -S; cat /proc/sys/net/ipv4/ip_forward; ls /sys/class/net /run";
    let (before, rules_before) = (host.leaks().unwrap(), host.sh(rules).run().unwrap());
    let script = |name: &str, variables: &str| {
        let (top, binary) = (programs::workspace().unwrap(), programs::bulkhead().unwrap());
        let line = format!(
            "cd {}; BIN={} {variables} scripts/{name}.sh",
            top.display(),
            binary.display()
        );
        host.sh(&line).within(Duration::from_secs(180)).run().unwrap()
    };

    let first = script("up", "");
    assert!(
        first.contains("Starting Docker") && first.contains("Starting the daemon"),
        "{first}"
    );
    assert_eq!(
        first.matches("hello from the first container").count(),
        2,
        "{first}"
    );
    let again = script("up", "");
    assert!(
        again.contains("the daemon runs already") && !again.contains("Starting Docker"),
        "{again}"
    );
    assert_eq!(
        again.matches("hello from the first container").count(),
        3,
        "the first line is gone: {again}"
    );

    script("down", "");
    before.await_same(&host, Duration::from_secs(10)).unwrap();
    let third = script("up", "");
    assert_eq!(
        third.matches("hello from the first container").count(),
        4,
        "the volume is gone: {third}"
    );

    let refused = host
        .sh("docker -H unix:///run/docker.sock run -d --name user -v hello:/data bulkhead-busybox sleep 600");
    refused.run().unwrap();
    let top = programs::workspace().unwrap().display();
    let told = host
        .sh(&format!("cd {top}; PURGE=1 scripts/down.sh"))
        .fails()
        .unwrap();
    assert!(told.contains("user (volume hello)"), "{told}");
    host.sh("docker -H unix:///run/docker.sock rm -f user")
        .run()
        .unwrap();
    script("down", "PURGE=1");
    assert!(
        !host.outside("/var/lib/bulkhead").exists(),
        "the data is still there"
    );
    let rules_after = host.sh(rules).run().unwrap();
    assert_eq!(
        rules_after.replace("docker\n", "").replace("containerd\n", ""),
        rules_before
    );
    before.await_same(&host, Duration::from_secs(10)).unwrap();
    assert!(script("down", "").contains("Nothing to do"));
}

#[test]
fn install_puts_everything_below_destdir_and_uninstall_takes_it_away() {
    let host = Host::start("install").unwrap();
    let top = programs::workspace().unwrap().display();
    let binary = programs::bulkhead().unwrap();
    let run = |what: &str| {
        let line = format!(
            "cd {top}; BIN={} DESTDIR=/tmp/image PREFIX=/usr scripts/install.sh {what}",
            binary.display()
        );
        host.sh(&line).run().unwrap();
        host.sh("cd /tmp/image; find . -type f | sort").run().unwrap()
    };
    let (pages, files): (Vec<String>, Vec<String>) = run("install")
        .lines()
        .map(str::to_owned)
        .partition(|file| file.starts_with("./usr/share/man/man1/bulkhead"));
    for page in ["bulkhead.1", "bulkhead-volume-create.1"] {
        let page = format!("./usr/share/man/man1/{page}");
        assert!(pages.contains(&page), "{page} is not among {pages:?}");
    }
    let expected = "./etc/bulkhead/bulkhead.toml\n./usr/bin/bulkhead\n./usr/lib/systemd/system/bulkhead.service\n\
        ./usr/lib/systemd/system/bulkhead.socket\n./usr/share/bash-completion/completions/bulkhead\n\
        ./usr/share/fish/vendor_completions.d/bulkhead.fish\n./usr/share/zsh/site-functions/_bulkhead";
    assert_eq!(files.join("\n"), expected);
    let unit = host
        .sh("cat /tmp/image/usr/lib/systemd/system/bulkhead.service")
        .run()
        .unwrap();
    assert!(unit.contains("ExecStart=/usr/bin/bulkhead daemon\n"), "{unit}");
    let units = "systemd-analyze --man=no verify /tmp/image/usr/lib/systemd/system/bulkhead.*";
    host.sh(&format!("cp /tmp/image/usr/bin/bulkhead /usr/bin/; {units}"))
        .run()
        .unwrap();
    host.sh("echo 'node_name = \"mine\"' >/tmp/image/etc/bulkhead/bulkhead.toml")
        .run()
        .unwrap();
    run("install");
    assert_eq!(
        host.sh("cat /tmp/image/etc/bulkhead/bulkhead.toml")
            .run()
            .unwrap(),
        "node_name = \"mine\""
    );
    assert_eq!(run("uninstall"), "./etc/bulkhead/bulkhead.toml");
}
