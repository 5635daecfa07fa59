//! The managed plugin: the line that installs it, and a Swarm stack that does so on every node.

use super::plan::Plan;
use super::shell::{quote, words};
use super::unit::BINARY;
use crate::cli::CliError;
use crate::config::{flag, variable};

/// What the plugin takes as variables; the rest goes to it as flags.
const VARIABLES: [&str; 5] = ["node_name", "cluster", "store", "pool.overcommit", "log.level"];
/// What its config.json has decided.
const FIXED: [&str; 7] = [
    "state_dir",
    "run_dir",
    "mounts_dir",
    "control_socket",
    "docker.socket",
    "docker.api",
    "timeout.stop",
];
/// Its name on the nodes, which is the driver's.
const ALIAS: &str = "bulkhead";
/// Where its command line is on the host.
const SOCKET: &str = "/var/lib/bulkhead/bulkhead.sock";

/// The commands that install it on a node.
pub(super) fn plugin(plan: &Plan, image: &str) -> Result<String, CliError> {
    let mut text = format!(
        "# Makes a machine a node of the Bulkhead cluster {}, as a managed plugin. Run it as root on each machine.\n",
        plan.cluster
    );
    text.push_str(plan.warning());
    text.push_str("mkdir -p /var/lib/bulkhead\n");
    text.push_str(&install(plan, image)?);
    text.push('\n');
    for line in [command_line(), await_daemon()]
        .into_iter()
        .chain(pool_lines(plan))
        .chain(class_lines(plan))
    {
        text.push_str(&line);
        text.push('\n');
    }
    Ok(text)
}

/// The command that gives a machine the plugin's program as its command line.
fn command_line() -> String {
    format!(
        "install -m 0755 \"$(docker info --format '{{{{.DockerRootDir}}}}')/plugins/$(docker plugin inspect --format '{{{{.Id}}}}' {ALIAS})/rootfs/usr/bin/bulkhead\" {BINARY}"
    )
}

/// The command that waits for the daemon: dockerd calls the plugin enabled before that has found the store.
fn await_daemon() -> String {
    format!("timeout 60 sh -c 'until {BINARY} --socket {SOCKET} pool list >/dev/null 2>&1; do sleep 1; done'")
}

/// A command for the daemon in the plugin.
fn told<'a>(command: impl IntoIterator<Item = &'a str>) -> String {
    words([BINARY, "--socket", SOCKET].into_iter().chain(command))
}

/// The commands that give a node its pools.
fn pool_lines(plan: &Plan) -> impl Iterator<Item = String> {
    plan.pools.iter().map(|pool| {
        let device = pool.device.to_string_lossy();
        let size = pool.size.iter().flat_map(|size| ["--size", size.as_str()]);
        told(["pool", "add", &device].into_iter().chain(size))
    })
}

/// The commands that give the cluster its classes, unless it has them.
fn class_lines(plan: &Plan) -> impl Iterator<Item = String> {
    let classes = plan.classes.iter().map(|class| {
        let name = class.name.as_str();
        let options: Vec<String> = class
            .options
            .iter()
            .flat_map(|(key, value)| ["-o".to_owned(), format!("{key}={value}")])
            .collect();
        let create = ["class", "create", name].into_iter();
        format!(
            "{} >/dev/null 2>&1 || {}",
            told(["class", "inspect", name]),
            told(create.chain(options.iter().map(String::as_str)))
        )
    });
    let default = plan.default_class.iter();
    classes.chain(default.map(|name| told(["class", "default", name])))
}

/// A stack with a service that installs the plugin wherever a node is, and looks after it.
pub(super) fn stack(plan: &Plan, image: &str, docker_image: &str) -> Result<String, CliError> {
    let work = format!(
        "mkdir -p /host/var/lib/bulkhead\n\
         docker plugin inspect {ALIAS} >/dev/null 2>&1 || {}\n\
         until [ \"$(docker plugin inspect --format '{{{{.Enabled}}}}' {ALIAS})\" = true ]; do docker plugin enable {ALIAS} || sleep 10; done\n\
         trap 'exit 0' TERM\n\
         sleep 2147483647 & wait\n",
        install(plan, image)?
    );
    // What stands between quotes in JSON does in YAML; a dollar would be taken for a variable of the stack.
    let work = serde_json::to_string(&work)
        .map_err(|error| CliError::Usage(error.to_string()))?
        .replace('$', "$$");
    let image = serde_json::to_string(docker_image).map_err(|error| CliError::Usage(error.to_string()))?;
    let secret = plan.warning();
    let listed = |when: &str, lines: &[String]| {
        let lines: String = lines.iter().map(|line| format!("#   {line}\n")).collect();
        if lines.is_empty() {
            lines
        } else {
            format!("# {when}:\n{lines}")
        }
    };
    let then = [
        listed(
            "Then, on each node, its command line",
            &[command_line(), await_daemon()],
        ),
        listed(
            "on each node that is to store something",
            &pool_lines(plan).collect::<Vec<_>>(),
        ),
        listed("and once, on any of them", &class_lines(plan).collect::<Vec<_>>()),
    ]
    .concat();
    Ok(format!(
        "# Installs Bulkhead as a managed plugin on every node of a Swarm, also on those that join later. On a manager:\n\
         #   docker stack deploy --compose-file THIS-FILE bulkhead\n\
         {secret}{then}version: \"3.8\"\n\
         services:\n\
         \x20 install:\n\
         \x20   image: {image}\n\
         \x20   command: [\"sh\", \"-euc\", {work}]\n\
         \x20   networks: [host]\n\
         \x20   volumes:\n\
         \x20     - /var/run/docker.sock:/var/run/docker.sock\n\
         \x20     - /var/lib:/host/var/lib\n\
         \x20   deploy:\n\
         \x20     mode: global\n\
         \x20     restart_policy:\n\
         \x20       condition: any\n\
         \x20       delay: 30s\n\
         networks:\n\
         \x20 host:\n\
         \x20   external: true\n\
         \x20   name: host\n"
    ))
}

/// `docker plugin install` with all settings.
fn install(plan: &Plan, image: &str) -> Result<String, CliError> {
    let mut line = format!(
        "docker plugin install --alias {ALIAS} --grant-all-permissions {}",
        quote(image)
    );
    let mut flags = Vec::new();
    for (key, value) in &plan.settings {
        if FIXED.contains(&key.as_str()) {
            return Err(CliError::Usage(format!(
                "--{} is decided by the plugin; leave it out",
                flag(key)
            )));
        }
        if VARIABLES.contains(&key.as_str()) {
            line.push_str(&format!(" {}={}", variable(key), quote(value)));
        } else if value.contains(' ') {
            return Err(CliError::Usage(format!(
                "--{} has a blank in it, which a plugin's setting cannot have",
                flag(key)
            )));
        } else {
            flags.push(format!("--{}={value}", flag(key)));
        }
    }
    let mut args = quote(&flags.join(" "));
    if let Some(interface) = &plan.interface {
        // A blank between the two, if there are two.
        let between = if flags.is_empty() { "" } else { "' '" };
        let before = if flags.is_empty() { String::new() } else { args };
        args = format!(
            "{before}{between}--data-address=\"$(ip -o -4 addr show dev {} scope global | awk '{{ sub(\"/.*\", \"\", $4); print $4; exit }}')\"",
            quote(interface)
        );
    }
    if !flags.is_empty() || plan.interface.is_some() {
        line.push_str(&format!(" args={args}"));
    }
    Ok(line)
}
