//! The members of an etcd cluster, each asked how it is. Decides nothing; one that does not answer is told of, and holds
//! up the others no longer than [`PATIENCE`].

use std::time::Duration;

use etcd_client::StatusResponse;
use futures::future::join_all;

use super::Inner;
use super::fault::{Fault, classify};
use crate::store::{Member, StoreError};

/// How long a member may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) async fn list(inner: &Inner) -> Result<Vec<Member>, StoreError> {
    let listed = inner
        .read(
            "member list",
            |mut client| async move { client.member_list().await },
        )
        .await?;
    let asked = listed.members().iter().map(|member| async move {
        let address = member.client_urls().first().cloned().unwrap_or_default();
        let mut told = Member {
            name: member.name().to_owned(),
            version: None,
            leader: false,
            size: None,
            trouble: None,
            address,
        };
        if told.address.is_empty() {
            told.trouble = Some("it was added and has never started".to_owned());
            return told;
        }
        match ask(inner, &told.address).await {
            Ok(status) => {
                told.version = Some(status.version().to_owned());
                told.leader = status.leader() == member.id();
                told.size = u64::try_from(status.db_size()).ok();
                told.trouble = trouble(&status);
            }
            Err(reason) => told.trouble = Some(reason),
        }
        told
    });
    let mut members = join_all(asked).await;
    members.sort_by(|a, b| (&a.name, &a.address).cmp(&(&b.name, &b.address)));
    Ok(members)
}

async fn ask(inner: &Inner, url: &str) -> Result<StatusResponse, String> {
    let work = async {
        let mut client = inner.links.connect_to(url).await?;
        client.status().await
    };
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(Ok(status)) => Ok(status),
        Ok(Err(error)) => Err(match classify(&inner.name, &error) {
            Fault::Refused(error) => error.to_string(),
            Fault::NotSent(reason) | Fault::Unknown(reason) => reason,
        }),
        Err(_) => Err("it does not answer".to_owned()),
    }
}

fn trouble(status: &StatusResponse) -> Option<String> {
    let mut troubles = status.errors().to_vec();
    if status.leader() == 0 {
        troubles.push("it knows no leader".to_owned());
    }
    if status.is_learner() {
        troubles.push("it learns, and has no vote yet".to_owned());
    }
    (!troubles.is_empty()).then(|| troubles.join("; "))
}
