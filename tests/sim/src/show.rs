//! Records and messages as a trace shows them.

use bulkhead_engine::machine::{Record, Reply};

use crate::disk::Sectors;
use crate::node::node_of;

/// A record in a line.
pub fn show_record(record: &Record) -> String {
    let replicas: Vec<String> = record
        .replicas
        .iter()
        .map(|replica| format!("{}:{:?}", node_of(replica.id), replica.state))
        .collect();
    let primary = record.primary.map(|node| node.to_bytes()[15]);
    format!(
        "epoch {} primary {primary:?} [{}]",
        record.epoch,
        replicas.join(" ")
    )
}

/// An answer in a line.
pub fn brief(reply: &Reply<Sectors>) -> String {
    match reply {
        Reply::Data(data) => format!("Data({} sectors)", data.count),
        Reply::Chunk { stamp, .. } => format!("Chunk({stamp})"),
        Reply::Changed { chunks, .. } => format!("Changed({chunks:?})"),
        other => format!("{other:?}"),
    }
}

/// A request in a line.
pub fn brief_request(request: &bulkhead_engine::machine::Request<Sectors>) -> String {
    use bulkhead_engine::machine::Request;
    match request {
        Request::Write {
            offset,
            data,
            tick,
            stamp,
        } => {
            let value = data.values.first().map_or(0, |&(_, value)| value);
            format!(
                "Write({} +{} value {value} tick {tick} {stamp:?})",
                offset / 512,
                data.count
            )
        }
        Request::Open(open) => format!("Open(epoch {} term {} {:?})", open.epoch, open.term, open.role),
        other => format!("{other:?}"),
    }
}
