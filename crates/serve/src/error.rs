//! Errors: why the server does not start, and why a request is rejected.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;
use tweedie_pipe::PipelineError;

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The configuration is invalid.
    #[error("{path}: {reason}", path = path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// The file with tokens is invalid.
    #[error("{path}: line {line}: {reason}", path = path.display())]
    Tokens {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// A file or folder cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The journal cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: rusqlite::Error,
    },
    /// The journal was written by a later version, or another server uses it.
    #[error("{path}: {reason}", path = path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// The address cannot be used.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The reason.
        source: std::io::Error,
    },
    /// Other machines could use the server without a token.
    #[error(
        "{0} can be reached from other machines, which needs bearer tokens; give a file of lines `NAME TOKEN` with \
         --tokens, or listen on 127.0.0.1"
    )]
    Open(SocketAddr),
    /// There is nothing to serve.
    #[error("{0}")]
    Models(String),
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// Why a request is rejected or a job has failed. Becomes JSON of the form of OpenAI's API in one place, here.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// The status of the response.
    pub status: StatusCode,
    /// A stable name for programs.
    pub code: &'static str,
    /// What is wrong and what was expected.
    pub message: String,
    /// The field at fault.
    pub param: Option<String>,
    /// Seconds after which the request may succeed.
    pub retry_after: Option<u64>,
}

impl Fault {
    /// A fault with this status, name and message.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), param: None, retry_after: None }
    }

    /// A field of the request is invalid.
    pub fn field(name: &str, message: impl Into<String>) -> Self {
        let message = format!("`{name}`: {}", message.into());
        Self { param: Some(name.into()), ..Self::new(StatusCode::BAD_REQUEST, "invalid_value", message) }
    }

    /// The request as a whole is invalid.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", message)
    }

    /// There is no such thing.
    pub fn missing(what: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", what)
    }

    /// Too much is asked of the server now.
    pub fn busy(message: impl Into<String>, retry_after: u64) -> Self {
        let fault = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message);
        Self { retry_after: Some(retry_after), ..fault }
    }

    /// The server cannot do it now, for a reason of its own.
    pub fn unavailable(code: &'static str, message: impl Into<String>) -> Self {
        let fault = Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message);
        Self { retry_after: Some(10), ..fault }
    }

    /// Something that the server should have prevented.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
    }

    /// The fault for what has panicked: that of the device, if one has failed.
    pub fn unexpected(what: &str) -> Self {
        match tweedie_ops::failure() {
            Some(failure) => Self::unavailable("device_failed", failure.to_string()),
            None => Self::internal(format!("{what} failed unexpectedly")),
        }
    }

    /// The fault with the names of files instead of their paths, which are nobody's business.
    pub fn without_folders(self) -> Self {
        let short = |word: &str| match word.rsplit_once(['/', '\\']) {
            // Errors begin with the path of the file, which may be relative.
            Some((_, name))
                if Path::new(word).is_absolute() || word.ends_with(':') && !word.starts_with('`') =>
            {
                name.to_owned()
            }
            _ => word.to_owned(),
        };
        let message: Vec<String> = self.message.split(' ').map(short).collect();
        Self { message: message.join(" "), ..self }
    }

    /// The kind of the error in OpenAI's API.
    pub fn kind(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The body of the response.
    pub fn json(&self) -> serde_json::Value {
        json!({ "error": {
            "message": self.message, "type": self.kind(), "param": self.param, "code": self.code,
        }})
    }
}

impl From<PipelineError> for Fault {
    fn from(error: PipelineError) -> Self {
        match error {
            PipelineError::Request { field, reason } => Self::field(field, reason),
            PipelineError::Memory { .. } => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "not_enough_memory", error.to_string())
            }
            PipelineError::Cancelled => Self::new(StatusCode::CONFLICT, "cancelled", "the job was cancelled"),
            PipelineError::Step { .. } | PipelineError::Model { .. } | PipelineError::Device(_) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "sampling_failed", error.to_string())
            }
            _ => Self::invalid(error.to_string()),
        }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.json())).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn paths_are_not_told() {
        let fault =
            Fault::invalid("/srv/models/a/config.json: `a/b` is wrong; see /v1/limits").without_folders();
        assert_eq!(fault.message, "config.json: `a/b` is wrong; see limits");
        let fault = Fault::invalid("data/inputs/ab12: tensor `a/b`: missing").without_folders();
        assert_eq!(fault.message, "ab12: tensor `a/b`: missing");
    }
}
