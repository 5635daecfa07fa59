//! The data path beside others: the same workloads on a plain loop device, on Bulkhead and on GlusterFS, each with its
//! data in files on the same disk, in turn and round after round, so that ratios hold.
//!
//! | room | owns |
//! |---|---|
//! | [`target`] | a directory that is measured, and who serves it |
//! | [`plain`], [`bulkhead`], [`gluster`] | how each of them comes to be |
//! | [`workload`] | what is done to a directory, and the figure that comes of it |
//! | [`fio`], [`postgres`], [`files`] | the workloads |
//! | [`recovery`] | what a rebuild and a catching up cost |
//! | [`scale`] | many volumes on one node |
//! | [`cost`] | processor time and memory |
//! | [`run`] | rounds in turn |
//! | [`results`] | medians, ratios, and the file with all of them |
//! | [`report`], [`plot`] | the figures as a page and as pictures |

pub mod bulkhead;
pub mod cost;
pub mod files;
pub mod fio;
pub mod gluster;
pub mod plain;
pub mod plot;
pub mod postgres;
pub mod recovery;
pub mod report;
pub mod results;
pub mod run;
pub mod scale;
pub mod target;
pub mod workload;
