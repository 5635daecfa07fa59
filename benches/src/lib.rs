//! What Bulkhead costs, measured. Measures, and judges nothing: whether a figure is good is the reader's business, or a
//! test's beside it.
//!
//! | room | owns |
//! |---|---|
//! | [`control`] | the control plane: many simulated nodes against a real store |
//! | [`data`] | the data path: the same workloads on a plain loop device, on Bulkhead and on GlusterFS |
//! | [`spread`] | median and tail of a number of durations |
//! | [`machine`] | on what it was measured, and when |
//! | [`page`] | the measured part of a page of the documentation |

pub mod control;
pub mod data;
pub mod machine;
pub mod page;
pub mod spread;

use std::process::ExitCode;

/// What a bench ends with: its error is told to people, under the bench's name.
pub fn ended(bench: &str, outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{bench}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
