//! The kernel's clock: whether something keeps it right. Sets nothing.

use std::io;

/// Whether a time service (NTP) keeps this machine's clock in step, as the kernel knows it.
pub fn is_synchronised() -> io::Result<bool> {
    // SAFETY: `timex` is plain data for which all zeroes is a value; without modes the call only reads.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a `timex` of our own, which lives through the call.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    if state < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(state != libc::TIME_ERROR && timex.status & libc::STA_UNSYNC == 0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_answers() {
        assert!(super::is_synchronised().is_ok());
    }
}
