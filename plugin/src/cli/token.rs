//! `bulkhead token`: who may use the API over the network.

use std::io::IsTerminal;

use super::args::TokenCommand;
use super::client::Client;
use super::delete::delete_all;
use super::print::{Printer, moment, table};
use super::progress::waiting;
use super::{CliError, Code};
use crate::service::{NewTokenView, Role, TokenRequest, TokenView};

pub(super) async fn run(client: &Client, printer: &Printer, command: TokenCommand) -> Result<Code, CliError> {
    match command {
        TokenCommand::Create {
            name,
            role,
            expires_in,
        } => {
            let request = TokenRequest {
                name,
                role,
                expires_in: expires_in.map(|span| span.as_secs()),
            };
            let made: NewTokenView = waiting("making a token", client.post("/tokens", &request)).await?;
            if std::io::stdout().is_terminal() {
                eprintln!(
                    "keep it: nobody is shown it again. It goes into the header `Authorization: Bearer …`"
                );
            }
            printer.value(&made, |made| format!("{}\n", made.token))?;
            Ok(Code::Ok)
        }
        TokenCommand::List => {
            let tokens: Vec<TokenView> = client.get("/tokens").await?;
            printer.value(&tokens, |tokens| list(tokens))?;
            Ok(Code::Ok)
        }
        TokenCommand::Delete { names } => delete_all(client, printer, "token", "/tokens", &names).await,
    }
}

fn list(tokens: &[TokenView]) -> String {
    if tokens.is_empty() {
        return "there is no token yet; `bulkhead token create NAME --role viewer` makes one\n".to_owned();
    }
    let rows: Vec<_> = tokens
        .iter()
        .map(|token| {
            let end = match (token.expires_at, token.expired) {
                (None, _) => "never".to_owned(),
                (Some(at), true) => format!("ended {}", moment(at)),
                (Some(at), false) => humantime::format_rfc3339_seconds(at).to_string(),
            };
            [
                token.name.clone(),
                match token.role {
                    Role::Viewer => "viewer",
                    Role::Admin => "admin",
                }
                .to_owned(),
                moment(token.created_at),
                end,
            ]
        })
        .collect();
    table(["NAME", "ROLE", "CREATED", "ENDS"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    #[test]
    fn a_token_that_has_ended_is_told_from_one_that_has_not() {
        let now = SystemTime::now();
        let token = |expires_at, expired| TokenView {
            name: "web".to_owned(),
            role: Role::Viewer,
            created_at: now,
            expires_at,
            expired,
        };
        let hour = Duration::from_secs(3600);
        let text = list(&[
            token(None, false),
            token(Some(now - hour), true),
            token(Some(now + hour), false),
        ]);
        assert!(
            text.contains("never") && text.contains("ended 20") && text.contains("viewer"),
            "{text}"
        );
        assert!(list(&[]).contains("bulkhead token create"));
    }
}
