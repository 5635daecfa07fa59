//! Tests of the options: forms, messages, and that no input gets through by accident.

use proptest::prelude::*;

use super::*;

fn message<T>(result: Result<T, OptionErrors>) -> String {
    result.err().map(|error| error.to_string()).unwrap_or_default()
}

fn one(key: &str, value: &str) -> Result<VolumeRequest, OptionErrors> {
    parse([(key, value)])
}

#[test]
fn sizes_are_powers_of_1024_and_round_up() {
    for (text, bytes) in [
        ("10G", 10 << 30),
        ("10g", 10 << 30),
        ("10GB", 10 << 30),
        ("10GiB", 10 << 30),
        ("10 Gi", 10 << 30),
        ("10", 10 << 30),
        ("1", 1 << 30),
        ("512M", 512 << 20),
        ("1.5G", 3 << 29),
        ("2T", 2 << 40),
        ("1048577B", 2 << 20),
        ("1025k", 2 << 20),
        ("0.0001G", 1 << 20),
        ("1P", 1 << 50),
    ] {
        assert_eq!(parse_size(text), Ok(bytes), "{text}");
    }
    for (text, part) in [
        ("", "not a number"),
        ("G", "not a number"),
        ("-1G", "not a number"),
        ("1.2.3G", "not a number"),
        ("1.G", "not a number"),
        ("10X", "\"x\" is not a unit"),
        ("10Gbit", "not a unit"),
        ("0", "cannot be empty"),
        ("1.1P", "1 PiB"),
        ("99999999999999999999", "1 PiB"),
        ("10G 5", "not a unit"),
        ("١G", "not a number"),
    ] {
        let why = parse_size(text).err().unwrap_or_default();
        assert!(why.contains(part), "{text}: {why}");
    }
}

#[test]
fn the_table_of_options() -> Result<(), OptionErrors> {
    let request = parse([
        ("size", "10G"),
        ("replicas", "3"),
        ("fstype", "XFS"),
        ("priority_io", "3"),
        ("storage_class", "gold"),
        ("nodes", "n1;n2, n3;n1"),
        ("labels", "app=shop,url=http://x=y"),
        ("mount_options", "noatime, nodev"),
        ("mkfs_options", "-m  reflink=1"),
    ])?;
    assert_eq!(request.size, Some(10 << 30));
    assert_eq!(request.repl, Some(3));
    assert_eq!(request.fs, Some(Fs::Xfs));
    assert_eq!(request.io_priority, Some(IoPriority::High));
    assert_eq!(request.class.as_deref(), Some("gold"));
    assert_eq!(request.nodes, ["n1", "n2", "n3"]);
    assert_eq!(request.labels["url"], "http://x=y");
    assert_eq!(request.mount_options.as_deref(), Some("noatime,nodev"));
    assert_eq!(request.mkfs_options.as_deref(), Some("-m reflink=1"));
    assert_eq!(parse([])?, VolumeRequest::default());
    Ok(())
}

#[test]
fn every_error_names_option_value_and_remedy() {
    for (key, value, parts) in [
        (
            "sice",
            "10G",
            vec!["unknown option \"sice\"", "did you mean \"size\""],
        ),
        ("Repl", "2", vec!["did you mean \"repl\""]),
        ("io-priority", "high", vec!["did you mean \"io_priority\""]),
        ("zzz", "1", vec!["unknown option \"zzz\"", "known are size, repl"]),
        ("secure", "true", vec!["\"secure\" is not available yet"]),
        ("from", "v1", vec!["\"from\" is not available yet"]),
        (
            "size",
            "",
            vec!["option size", "the value is missing", "size=10G"],
        ),
        ("size", "ten", vec!["option size=\"ten\"", "write a number"]),
        (
            "size",
            "8M",
            vec!["option size=\"8 MiB\"", "ext4 needs", "16 MiB"],
        ),
        ("replicas", "0", vec!["option replicas=\"0\"", "1 to 8"]),
        ("repl", "300", vec!["option repl=\"300\"", "repl=2"]),
        ("fs", "ntfs", vec!["option fs=\"ntfs\"", "ext4, xfs or btrfs"]),
        (
            "io_priority",
            "4",
            vec!["option io_priority=\"4\"", "high, medium or low"],
        ),
        ("class", "a b", vec!["option class=\"a b\"", "letters, digits"]),
        ("nodes", ";,", vec!["option nodes=\";,\"", "nodes=n1;n2"]),
        ("nodes", "n/1", vec!["\"n/1\" is not the name"]),
        (
            "labels",
            "app",
            vec!["option labels=\"app\"", "no '='", "labels=app=shop"],
        ),
        ("labels", "a=1,a=2", vec!["given twice"]),
        (
            "mount_options",
            "noatime,nobarrier",
            vec!["\"nobarrier\" is refused", "power cut", "leave it out"],
        ),
        ("mount_options", "a b", vec!["not an option of mount"]),
        ("mkfs_options", "/dev/sda", vec!["begin with '-'"]),
        (
            "mkfs_options",
            "-J device=/dev/sda",
            vec!["names a file or a device"],
        ),
    ] {
        let text = message(one(key, value));
        for part in parts {
            assert!(text.contains(part), "{key}={value}: {text}");
        }
    }
}

#[test]
fn all_faults_are_shown_at_once() {
    let text = message(parse([("sise", "1G"), ("repl", "x"), ("fg", "true")]));
    assert!(
        text.contains("sise") && text.contains("repl=\"x\"") && text.contains("fg"),
        "{text}"
    );
}

#[test]
fn a_key_twice_must_agree() {
    assert!(parse([("repl", "2"), ("replicas", "2")]).is_ok());
    assert!(message(parse([("repl", "2"), ("replicas", "3")])).contains("given twice"));
}

#[test]
fn the_spec_in_the_name() -> Result<(), OptionErrors> {
    let spec = InlineSpec::parse("size=10G,repl=3,io_priority=high,name=demovolume")?;
    assert_eq!(spec.name.as_str(), "demovolume");
    let request = spec.request()?;
    assert_eq!(
        (request.size, request.repl, request.io_priority),
        (Some(10 << 30), Some(3), Some(IoPriority::High))
    );

    let spec = InlineSpec::parse("name=x,labels=a=1#b=2,mount_options=noatime#nodev")?;
    let request = spec.request()?;
    assert_eq!(request.labels.len(), 2);
    assert_eq!(request.mount_options.as_deref(), Some("noatime,nodev"));

    assert_eq!(InlineSpec::parse("plain_name-1.x")?.options, []);
    let both = InlineSpec::parse("size=10G,name=x")?;
    assert!(both.request_with([("size", "10G"), ("fs", "xfs")]).is_ok());
    assert!(message(both.request_with([("size", "11G")])).contains("given twice"));
    Ok(())
}

#[test]
fn names_that_cannot_be() {
    for (name, part) in [
        ("size=10G,repl=3", "need name= among them"),
        ("", "cannot be the name"),
        ("../../etc", "begins with a letter"),
        ("a/b", "letters, digits"),
        ("-x", "begins with a letter"),
        ("name=", "cannot be the name"),
        ("name=a,name=b", "given twice"),
        ("name=a,oops", "\"oops\" in the name has no '='"),
        ("ünïcode", "cannot be the name"),
    ] {
        let text = message(InlineSpec::parse(name));
        assert!(text.contains(part), "{name}: {text}");
    }
    let long = "x".repeat(129);
    assert!(message(InlineSpec::parse(&long)).contains("at most 128"));
    assert!(
        message(InlineSpec::parse("size=10G,bogus=1,name=x").and_then(|spec| spec.request()))
            .contains("bogus")
    );
}

#[test]
fn drift_shows_only_what_was_asked_for() -> Result<(), OptionErrors> {
    let actual = parse([
        ("size", "1G"),
        ("repl", "1"),
        ("fs", "ext4"),
        ("labels", "a=1,b=2"),
    ])?;
    assert!(
        parse([("size", "1024M"), ("labels", "a=1")])?
            .drift(&actual)
            .is_empty()
    );
    let drift = parse([("size", "5G"), ("class", "gold"), ("labels", "a=3")])?.drift(&actual);
    assert_eq!(
        drift,
        [
            "size: asked for 5 GiB, is 1 GiB",
            "class: asked for gold, is not set",
            "label a: asked for 3, is 1"
        ]
    );
    Ok(())
}

#[test]
fn the_documentation_lists_every_option() {
    let page = include_str!("../../../docs/options.md");
    for key in KEYS {
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| `{}`", key.name)));
        if key.is_available() {
            let row = row.unwrap_or_default();
            assert!(
                row.contains(key.doc),
                "docs/options.md has no row for {}: {}",
                key.name,
                key.doc
            );
            for alias in key.aliases {
                assert!(
                    row.contains(&format!("`{alias}`")),
                    "docs/options.md lacks the alias {alias}"
                );
            }
        } else {
            assert!(
                page.contains(&format!("`{}`", key.name)),
                "docs/options.md does not say that {} comes later",
                key.name
            );
        }
    }
}

proptest! {
    #[test]
    fn no_input_panics_and_each_refusal_says_something(name in any::<String>(), key in any::<String>(), value in any::<String>()) {
        if let Err(error) = InlineSpec::parse(&name).and_then(|spec| spec.request()) {
            prop_assert!(!error.to_string().is_empty());
        }
        if let Err(error) = one(&key, &value) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn no_value_of_a_known_key_panics(index in 0..KEYS.len(), value in "[ -~]{0,40}") {
        if let Err(error) = one(KEYS[index].name, &value) {
            prop_assert!(error.to_string().contains(KEYS[index].name));
        }
    }

    #[test]
    fn a_size_is_never_less_than_asked_nor_a_mebibyte_more(number in 1_u64..1 << 40, unit in 0_u32..5) {
        let letter = ["b", "k", "m", "g", "t"][unit as usize];
        let asked = u128::from(number) << (10 * unit);
        match parse_size(&format!("{number}{letter}")) {
            Ok(size) => {
                prop_assert!(u128::from(size) >= asked && u128::from(size) < asked + (1 << 20));
                prop_assert_eq!(size % (1 << 20), 0);
            }
            Err(_) => prop_assert!(asked > u128::from(MAX_SIZE) - (1 << 20)),
        }
    }

    #[test]
    fn a_formatted_size_parses_back_if_it_is_exact(mib in 1_u64..1 << 30) {
        let size = mib << 20;
        let text = format_size(size);
        if !text.contains('.') {
            prop_assert_eq!(parse_size(&text), Ok(size));
        }
    }

    #[test]
    fn a_spec_in_the_name_is_what_the_options_are(size in 1_u64..1000, repl in 1_u8..=8, name in "[a-z][a-z0-9_.-]{0,20}") {
        let inline = InlineSpec::parse(&format!("repl={repl},name={name},size={size}G")).and_then(|spec| spec.request());
        let plain = parse([("size", format!("{size}G").as_str()), ("repl", repl.to_string().as_str())]);
        prop_assert_eq!(inline, plain);
    }
}
