//! Who a client is: a bearer token from a file, or, without tokens, anybody on this machine.
//!
//! Without tokens the server only listens on loopback addresses. Pages of other sites in a browser on this machine could still
//! reach it, so a request must name this host and come from no other origin.

use std::{path::Path, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use tweedie_system::files;

use crate::{Fault, ServeError, service::Service, store::hash};

/// The largest file of tokens.
const MOST: u64 = 1 << 20;
/// The shortest token.
const LEAST: usize = 16;
/// The client without tokens.
const LOCAL: &str = "local";

/// The name of the client of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client(pub Arc<str>);

/// The tokens of all clients, or none.
#[derive(Clone, Debug, Default)]
pub struct Tokens(Vec<(Arc<str>, String)>);

impl Tokens {
    /// Reads lines `NAME TOKEN`; empty lines and those that start with `#` are ignored.
    ///
    /// # Errors
    /// If the file cannot be read, or a line is invalid.
    pub fn read(path: &Path) -> Result<Self, ServeError> {
        let text =
            files::read_text(path, MOST).map_err(|source| ServeError::File { path: path.into(), source })?;
        let mut all: Vec<(Arc<str>, String)> = Vec::new();
        for (i, line) in text.lines().enumerate() {
            let wrong = |reason: String| ServeError::Tokens { path: path.into(), line: i + 1, reason };
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            let &[name, token] = &*words else {
                return Err(wrong(format!("{} words, expected a name and a token", words.len())));
            };
            if token.len() < LEAST {
                return Err(wrong(format!(
                    "the token of `{name}` has {} bytes, expected at least {LEAST}",
                    token.len()
                )));
            }
            let token = hash(token.as_bytes());
            if all.iter().any(|(_, other)| *other == token) {
                return Err(wrong(format!("the token of `{name}` is also that of another line")));
            }
            all.push((name.into(), token));
        }
        if all.is_empty() {
            return Err(ServeError::Tokens {
                path: path.into(),
                line: 1,
                reason: "the file has no tokens".into(),
            });
        }
        Ok(Self(all))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The client of a request with these headers.
    fn client(&self, headers: &HeaderMap) -> Result<Client, Fault> {
        if self.is_empty() {
            return Ok(Client(LOCAL.into()));
        }
        let unknown =
            |message: &str| Fault::new(axum::http::StatusCode::UNAUTHORIZED, "invalid_api_key", message);
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given =
            given.ok_or_else(|| unknown("this server needs a token: `Authorization: Bearer TOKEN`"))?;
        let token = match given.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim().to_owned(),
            // Clients of A1111's API send a name and a password.
            Some((scheme, pair)) if scheme.eq_ignore_ascii_case("basic") => {
                let pair = STANDARD.decode(pair.trim()).ok().and_then(|pair| String::from_utf8(pair).ok());
                pair.and_then(|pair| Some(pair.split_once(':')?.1.to_owned())).unwrap_or_default()
            }
            _ => return Err(unknown("`Authorization`: expected `Bearer TOKEN`")),
        };
        // Hashes are compared, so the time tells nothing about the token.
        let token = hash(token.as_bytes());
        let found = self.0.iter().find(|(_, known)| *known == token);
        found.map(|(name, _)| Client(name.clone())).ok_or_else(|| unknown("the token is unknown"))
    }
}

/// What [`check`] needs.
#[derive(Clone)]
pub struct Guard {
    /// The tokens.
    pub tokens: Arc<Tokens>,
    /// The server.
    pub service: Arc<Service>,
}

/// Finds out who the client is. Results need no token: their names are unguessable.
pub async fn check(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    match identify(&guard, &request) {
        Ok(client) => {
            request.extensions_mut().insert(client);
            next.run(request).await
        }
        Err(fault) => fault.into_response(),
    }
}

fn identify(guard: &Guard, request: &Request) -> Result<Client, Fault> {
    if guard.tokens.is_empty() {
        check_origin(request.headers(), &guard.service.config.hosts)?;
    }
    guard.tokens.client(request.headers())
}

/// Rejects requests to or from other hosts.
pub fn check_origin(headers: &HeaderMap, hosts: &[String]) -> Result<(), Fault> {
    let text = |name| headers.get(name).and_then(|value: &axum::http::HeaderValue| value.to_str().ok());
    let known = |host: &str| {
        let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((name, _)) => name,
            None => host.rsplit_once(':').map_or(host, |(name, _)| name),
        };
        let is_loopback = name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        is_loopback
            || name.eq_ignore_ascii_case("localhost")
            || hosts.iter().any(|own| own == host || own == name)
    };
    let forbidden = |message: String| Fault::new(axum::http::StatusCode::FORBIDDEN, "forbidden", message);
    match text(header::HOST) {
        Some(host) if known(host) => {}
        Some(host) => {
            let message = format!("the host `{host}` is not known; add it to `hosts` in the configuration");
            return Err(forbidden(message));
        }
        None => return Err(forbidden("the request has no `Host`".into())),
    }
    match text(header::ORIGIN) {
        None => Ok(()),
        Some(origin) if origin.split_once("://").is_some_and(|(_, host)| known(host)) => Ok(()),
        Some(origin) => Err(forbidden(format!("requests from pages of `{origin}` are not allowed"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_and_matched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Tokens::read(&path)
        };
        let tokens = read("# people\nann 0123456789abcdef\n\nbob 0123456789abcdeg\n").unwrap();
        let client = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            tokens.client(&headers)
        };
        assert_eq!(client("Bearer 0123456789abcdeg").unwrap().0.as_ref(), "bob");
        assert_eq!(client("Bearer 0123456789abcdex").unwrap_err().code, "invalid_api_key");
        assert_eq!(client("Basic abc").unwrap_err().code, "invalid_api_key");
        let pair = STANDARD.encode("anything:0123456789abcdef");
        assert_eq!(client(&format!("Basic {pair}")).unwrap().0.as_ref(), "ann");
        assert!(tokens.client(&HeaderMap::new()).is_err());
        for (text, words) in [
            ("ann", "line 1: 1 words"),
            ("\nann short", "line 2: the token of `ann` has 5 bytes"),
            ("# nobody", "no tokens"),
            ("a 0123456789abcdef\nb 0123456789abcdef", "line 2: the token of `b` is also"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn other_hosts_and_origins_are_rejected() {
        let check = |host: &str, origin: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, origin.parse().unwrap());
            }
            check_origin(&headers, &["draw.example".into()]).is_ok()
        };
        for host in
            ["127.0.0.1:7860", "localhost", "LOCALHOST:1", "[::1]:7860", "draw.example", "draw.example:80"]
        {
            assert!(check(host, None), "{host}");
        }
        assert!(!check("evil.example:7860", None));
        assert!(check("localhost:7860", Some("http://localhost:7860")));
        assert!(!check("localhost:7860", Some("https://evil.example")));
        assert!(!check("localhost:7860", Some("null")));
    }
}
