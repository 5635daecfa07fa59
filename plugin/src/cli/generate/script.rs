//! The shell script that makes a machine a node. What is there already stays, so it can be run again at any time.

use super::plan::Plan;
use super::shell::{quote, words};
use super::unit::{self, BINARY};

/// Ends each file in the script.
const END: &str = "END_OF_FILE";

pub(super) fn script(plan: &Plan, binary: Option<&str>, sha256: Option<&str>) -> String {
    let mut text = format!(
        "#!/bin/sh\n\
         # Makes this machine a node of the Bulkhead cluster {0}. Run it as root on each machine; run it again at any time: what\n\
         # is there already stays.\n",
        plan.cluster
    );
    text.push_str(plan.warning());
    text.push_str(&format!(
        "set -eu\nbulkhead={BINARY}\nsource={}\nsha256={}\ninterface={}\n",
        quote(binary.unwrap_or_default()),
        quote(sha256.unwrap_or_default()),
        quote(plan.interface.as_deref().unwrap_or_default()),
    ));
    text.push_str(include_str!("begin.sh"));
    for file in unit::files(plan) {
        text.push_str(&format!(
            "put {} {:04o} <<'{END}'\n{}{END}\n",
            file.path, file.mode, file.text
        ));
    }
    text.push_str(include_str!("start.sh"));
    for pool in &plan.pools {
        let device = pool.device.to_string_lossy();
        let size = pool.size.iter().flat_map(|size| ["--size", size.as_str()]);
        text.push_str(&format!("pool {} {}\n", quote(&device), words(size)).replace(" \n", "\n"));
    }
    for class in &plan.classes {
        let options: Vec<String> = class
            .options
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let options = options.iter().flat_map(|option| ["-o", option.as_str()]);
        text.push_str(&format!("class {} {}\n", quote(&class.name), words(options)).replace(" \n", "\n"));
    }
    if let Some(name) = &plan.default_class {
        text.push_str(&format!(
            "\"$bulkhead\" class default {} >/dev/null\n",
            quote(name)
        ));
    }
    text.push_str(include_str!("end.sh"));
    text
}
