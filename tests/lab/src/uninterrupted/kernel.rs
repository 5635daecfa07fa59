//! What the kernel said of the volumes under test: errors of their devices and file systems.
//!
//! It owns a place in the kernel's log. The log is the whole machine's: it must never count a line about a device that is not
//! named to it.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result, bail};

/// Words of a line that tells of trouble; what the kernel says of a mount has none of them.
const TROUBLE: [&str; 6] = ["error", "failed", "abort", "read-only", "shut", "corrupt"];
/// More records than these are not waited for.
const MOST: usize = 1_000_000;

/// The kernel's log from one moment on.
#[derive(Debug)]
pub struct KernelLog(File);

impl KernelLog {
    /// From now on.
    pub fn from_now() -> Result<Self> {
        let mut file = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")
            .context("cannot read the kernel's log")?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self(file))
    }

    /// The lines since the last call that tell of trouble with one of these devices, such as `loop7`.
    pub fn trouble(&mut self, devices: &[String]) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let mut record = [0; 8192];
        for _ in 0..MOST {
            match self.0.read(&mut record) {
                Ok(0) => return Ok(found),
                Ok(length) => {
                    let text = String::from_utf8_lossy(&record[..length]);
                    if let Some(line) = message(&text)
                        && tells_of_trouble(line, devices)
                    {
                        found.push(line.to_owned());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(found),
                // Records were overwritten before they were read: the next ones are there.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(error) => return Err(error).context("cannot read the kernel's log"),
            }
        }
        bail!("the kernel's log has no end")
    }
}

/// The text of a record such as `6,1339,5140900,-;EXT4-fs (loop4): …`.
fn message(record: &str) -> Option<&str> {
    record.split_once(';')?.1.lines().next()
}

fn tells_of_trouble(line: &str, devices: &[String]) -> bool {
    let mut words = line.split(|c: char| !c.is_ascii_alphanumeric());
    let named = words.any(|word| devices.iter().any(|device| device == word));
    let lower = line.to_ascii_lowercase();
    named && TROUBLE.iter().any(|word| lower.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trouble_with_the_named_devices_counts() {
        let devices = ["loop4".to_owned()];
        for line in [
            "I/O error, dev loop4, sector 2048 op 0x1:(WRITE) flags 0x800",
            "EXT4-fs (loop4): Remounting filesystem read-only",
            "Aborting journal on device loop4-8.",
            "XFS (loop4): log I/O error -5",
        ] {
            assert!(tells_of_trouble(line, &devices), "{line}");
        }
        for line in [
            "EXT4-fs (loop4): mounted filesystem r/w with ordered data mode",
            "I/O error, dev loop40, sector 2048",
            "EXT4-fs (loop4): unmounting filesystem bb8dc174.",
        ] {
            assert!(!tells_of_trouble(line, &devices), "{line}");
        }
        assert_eq!(message("6,1,2,-;text here\n KEY=value\n"), Some("text here"));
    }
}
