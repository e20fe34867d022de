//! The journal: SQLite in the data folder. What is accepted is in it before the client hears so, and stays until it is deleted.

mod read;
mod upkeep;

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rusqlite::{Connection, OptionalExtension, params};

use crate::{
    Fault, ServeError,
    order::{Order, Priority, State, inputs},
    store::Stored,
};

/// The file in the data folder.
const FILE: &str = "journal.sqlite";
/// Raised when the tables change.
const VERSION: i64 = 1;

const TABLES: &str = "
CREATE TABLE jobs (
    number      INTEGER PRIMARY KEY,
    id          TEXT NOT NULL UNIQUE,
    client      TEXT NOT NULL,
    model       TEXT NOT NULL,
    request     TEXT NOT NULL,
    priority    TEXT NOT NULL,
    created     INTEGER NOT NULL,
    deadline    INTEGER,
    partials    INTEGER NOT NULL,
    key         TEXT,
    fingerprint TEXT,
    state       TEXT NOT NULL,
    code        TEXT,
    message     TEXT,
    finished    INTEGER
);
CREATE UNIQUE INDEX keys ON jobs (client, key) WHERE key IS NOT NULL;
CREATE INDEX states ON jobs (state);
CREATE TABLE flights (
    job   TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    first INTEGER NOT NULL,
    state TEXT NOT NULL,
    PRIMARY KEY (job, first)
);
CREATE TABLE results (
    job    TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    row    INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    ending TEXT NOT NULL,
    bytes  INTEGER NOT NULL,
    PRIMARY KEY (job, row)
);
CREATE INDEX files ON results (sha256);
CREATE TABLE uploads (
    job    TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    sha256 TEXT NOT NULL
);
CREATE INDEX uploaded ON uploads (sha256);
";

/// The journal of a data folder.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    connection: Mutex<Connection>,
}

/// A job in the journal.
#[derive(Clone, Debug)]
pub struct Record {
    /// What was ordered.
    pub order: Order,
    /// How far it is.
    pub state: State,
    /// Why it has failed: a stable name and a message.
    pub error: Option<(String, String)>,
    /// When it ended, in milliseconds since 1970.
    pub finished: Option<u64>,
    /// The stored results, by row.
    pub results: Vec<(usize, Stored)>,
}

/// What [`Journal::accept`] has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// The order is stored.
    New,
    /// The same order was accepted before, as this job.
    Before(String),
    /// The client used the same key for another order.
    Conflict,
}

impl Journal {
    /// Opens the journal of a data folder, or creates it.
    ///
    /// # Errors
    /// If it cannot be opened, was written by a later version, or is in use by another server.
    pub fn open(folder: &Path) -> Result<Self, ServeError> {
        let path = folder.join(FILE);
        let wrong = |source| ServeError::Journal { path: path.clone(), source };
        let unusable = |reason: &str| ServeError::Unusable { path: path.clone(), reason: reason.into() };
        let connection = Connection::open(&path).map_err(wrong)?;
        // `FULL` survives a power cut. The exclusive lock keeps a second server out.
        let settings = "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
                        PRAGMA foreign_keys = ON;";
        connection.busy_timeout(std::time::Duration::ZERO).map_err(wrong)?;
        let begun = connection.execute_batch(settings).and_then(|()| {
            connection.execute_batch("BEGIN EXCLUSIVE; COMMIT;")?;
            connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))
        });
        let version = match begun {
            Ok(version) => version,
            Err(e) if e.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => {
                return Err(unusable(
                    "another server uses this data folder; give each its own with --data-dir",
                ));
            }
            Err(e) => return Err(wrong(e)),
        };
        match version {
            0 => {
                let made = format!("BEGIN; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;");
                connection.execute_batch(&made).map_err(wrong)?;
            }
            VERSION => {}
            _ => return Err(unusable("it was written by a later version of tweedie; use that version")),
        }
        Ok(Self { path, connection: Mutex::new(connection) })
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, source: rusqlite::Error) -> Fault {
        let (path, full) = (self.path.display(), source.sqlite_error_code());
        tracing::error!(journal = %path, error = %source, "the journal cannot be used");
        match full {
            Some(rusqlite::ErrorCode::DiskFull) => {
                Fault::unavailable("disk_full", "the server's disk is full, so it accepts no jobs")
            }
            _ => Fault::unavailable(
                "journal_failed",
                "the server cannot write its journal, so it accepts no jobs",
            ),
        }
    }

    /// Stores an order.
    ///
    /// # Errors
    /// If it cannot be written; then it is not accepted.
    pub fn accept(&self, order: &Order) -> Result<Accepted, Fault> {
        self.try_accept(order).map_err(|e| self.failed(e))
    }

    fn try_accept(&self, order: &Order) -> rusqlite::Result<Accepted> {
        let mut connection = self.lock();
        let step = connection.transaction()?;
        let (key, fingerprint) = order.idempotency.clone().unzip();
        if let Some(key) = &key {
            let found = step.query_row(
                "SELECT id, fingerprint FROM jobs WHERE client = ?1 AND key = ?2",
                params![order.client, key],
                |row| Ok((row.get::<_, String>(0)?, row.get::<_, Option<String>>(1)?)),
            );
            if let Some((id, before)) = found.optional()? {
                return Ok(if before == fingerprint { Accepted::Before(id) } else { Accepted::Conflict });
            }
        }
        step.execute(
            "INSERT INTO jobs (id, client, model, request, priority, created, deadline, partials, key, fingerprint, state)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, 'queued')",
            params![
                order.id,
                order.client,
                order.model,
                order.request.to_string(),
                priority_name(order.priority),
                order.created as i64,
                order.deadline.map(|at| at as i64),
                order.partials as i64,
                key,
                fingerprint,
            ],
        )?;
        for hash in inputs(&order.request) {
            step.execute("INSERT INTO uploads VALUES (?1, ?2)", params![order.id, hash])?;
        }
        step.commit()?;
        Ok(Accepted::New)
    }

    /// Stores the end of a job, and forgets its states on the way.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn end(&self, id: &str, state: State, fault: Option<&Fault>, now: u64) -> rusqlite::Result<()> {
        let mut connection = self.lock();
        let step = connection.transaction()?;
        step.execute(
            "UPDATE jobs SET state = ?2, code = ?3, message = ?4, finished = ?5 WHERE id = ?1",
            params![id, state.name(), fault.map(|f| f.code), fault.map(|f| f.message.as_str()), now as i64],
        )?;
        step.execute("DELETE FROM flights WHERE job = ?1", [id])?;
        step.commit()
    }

    /// Replaces the stored states of a job's flights, with the image that each begins with.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn keep(&self, id: &str, states: &[(usize, String)]) -> rusqlite::Result<()> {
        let mut connection = self.lock();
        let step = connection.transaction()?;
        step.execute("DELETE FROM flights WHERE job = ?1", [id])?;
        for (first, state) in states {
            step.execute("INSERT INTO flights VALUES (?1, ?2, ?3)", params![id, *first as i64, state])?;
        }
        step.commit()
    }

    /// Stores which files are the results for these rows of a job.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn add_results(&self, id: &str, results: &[(usize, Stored)]) -> rusqlite::Result<()> {
        let mut connection = self.lock();
        let step = connection.transaction()?;
        for (row, file) in results {
            step.execute(
                "INSERT OR REPLACE INTO results VALUES (?1, ?2, ?3, ?4, ?5)",
                params![id, *row as i64, file.sha256, file.ending, file.bytes as i64],
            )?;
        }
        step.commit()
    }
}

fn priority_name(priority: Priority) -> &'static str {
    match priority {
        Priority::High => "high",
        Priority::Normal => "normal",
        Priority::Low => "low",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{upkeep::Unused, *};

    fn order(id: &str, key: Option<(&str, &str)>) -> Order {
        Order {
            id: id.into(),
            client: "me".into(),
            model: "m".into(),
            request: json!({ "count": 1, "seed": 0, "image": { "path": "inputs/aa", "sha256": "aa" } }),
            priority: Priority::High,
            created: 5,
            deadline: Some(9),
            partials: 2,
            idempotency: key.map(|(key, hash)| (key.into(), hash.into())),
        }
    }

    fn file(hash: &str, bytes: u64) -> Stored {
        Stored { sha256: hash.into(), ending: "png", bytes }
    }

    #[test]
    fn orders_come_back_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        assert_eq!(journal.accept(&order("a", Some(("k", "1")))).unwrap(), Accepted::New);
        assert_eq!(journal.accept(&order("b", Some(("k", "1")))).unwrap(), Accepted::Before("a".into()));
        assert_eq!(journal.accept(&order("b", Some(("k", "2")))).unwrap(), Accepted::Conflict);
        assert_eq!(journal.accept(&order("b", None)).unwrap(), Accepted::New);
        let second = Journal::open(dir.path()).unwrap_err().to_string();
        assert!(second.contains("another server"), "{second}");
        drop(journal);
        let journal = Journal::open(dir.path()).unwrap();
        journal.add_results("a", &[(0, file("ff", 3))]).unwrap();
        let all = journal.unfinished().unwrap();
        assert_eq!(all.iter().map(|(r, _)| r.order.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(all[0].0.order, order("a", Some(("k", "1"))));
        assert_eq!(all[0].0.results, [(0, file("ff", 3))]);
        journal.end("a", State::Failed, Some(&Fault::missing("gone")), 7).unwrap();
        let record = journal.find("a").unwrap().unwrap();
        assert_eq!((record.state, record.finished), (State::Failed, Some(7)));
        assert_eq!(record.error, Some(("not_found".into(), "gone".into())));
        assert_eq!(journal.unfinished().unwrap().len(), 1);
    }

    #[test]
    fn only_files_without_other_users_are_unused() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        for id in ["a", "b"] {
            journal.accept(&order(id, None)).unwrap();
            journal.add_results(id, &[(0, file("both", 10)), (1, file(id, 10))]).unwrap();
            journal.end(id, State::Finished, None, 1).unwrap();
        }
        assert_eq!(journal.over_budget(40).unwrap(), Vec::<String>::new());
        assert_eq!(journal.over_budget(25).unwrap(), ["a"]);
        let unused = journal.delete("a").unwrap();
        assert_eq!(unused, Unused { results: vec![("a".into(), "png".into())], inputs: vec![] });
        let unused = journal.delete("b").unwrap();
        assert_eq!((unused.results.len(), unused.inputs), (2, vec!["aa".to_owned()]));
        assert!(journal.find("b").unwrap().is_none());
    }
}
