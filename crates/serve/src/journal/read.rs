//! What is in the journal.

use rusqlite::Row;
use tweedie_pipe::flight::FlightState;

use super::{Journal, Record};
use crate::{
    Fault, ServeError,
    order::{Order, Priority, State},
    store::{ENDINGS, Stored},
};

impl Journal {
    /// The job with this name.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub fn find(&self, id: &str) -> Result<Option<Record>, Fault> {
        let found = self.records("WHERE id = ?1", &[&id]).map_err(|e| self.failed(e))?;
        Ok(found.into_iter().next())
    }

    /// The last `most` jobs of a client, before the job `before`, newest first.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub fn list(&self, client: &str, before: Option<&str>, most: usize) -> Result<Vec<Record>, Fault> {
        let what = "WHERE client = ?1 AND (?2 IS NULL OR number < (SELECT number FROM jobs WHERE id = ?2))
                    ORDER BY number DESC LIMIT ?3";
        self.records(what, &[&client, &before, &(most as i64)]).map_err(|e| self.failed(e))
    }

    /// The jobs that were accepted but have not ended, oldest first, with the states of their flights.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub fn unfinished(&self) -> Result<Vec<(Record, Vec<FlightState>)>, ServeError> {
        let wrong = |source| ServeError::Journal { path: self.path.clone(), source };
        let records =
            self.records("WHERE state IN ('queued', 'running') ORDER BY number", &[]).map_err(wrong)?;
        let connection = self.lock();
        let mut query =
            connection.prepare("SELECT state FROM flights WHERE job = ?1 ORDER BY first").map_err(wrong)?;
        let with_states = |record: Record| {
            let states = query
                .query_map([&record.order.id], |row| row.get::<_, String>(0))
                .and_then(Iterator::collect);
            let states: Vec<String> = states.map_err(wrong)?;
            // A state that cannot be read only costs the time to sample again.
            let states = states.iter().filter_map(|text| serde_json::from_str(text).ok()).collect();
            Ok((record, states))
        };
        records.into_iter().map(with_states).collect()
    }

    fn records(&self, what: &str, values: &[&dyn rusqlite::ToSql]) -> rusqlite::Result<Vec<Record>> {
        let connection = self.lock();
        let mut query = connection.prepare(&format!(
            "SELECT id, client, model, request, priority, created, deadline, partials, key, fingerprint, state, code,
                    message, finished FROM jobs {what}"
        ))?;
        let mut records: Vec<Record> = query.query_map(values, record)?.collect::<Result<_, _>>()?;
        let mut files = connection
            .prepare("SELECT row, sha256, ending, bytes FROM results WHERE job = ?1 ORDER BY row")?;
        for record in &mut records {
            record.results = files.query_map([&record.order.id], result)?.collect::<Result<_, _>>()?;
        }
        Ok(records)
    }
}

fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
    let time = |at: Option<i64>| at.map(|at| at.max(0) as u64);
    let request: String = row.get(3)?;
    let wrong = |e: serde_json::Error| {
        rusqlite::Error::FromSqlConversionFailure(3, rusqlite::types::Type::Text, Box::new(e))
    };
    let priority = match row.get::<_, String>(4)?.as_str() {
        "high" => Priority::High,
        "low" => Priority::Low,
        _ => Priority::Normal,
    };
    Ok(Record {
        order: Order {
            id: row.get(0)?,
            client: row.get(1)?,
            model: row.get(2)?,
            request: serde_json::from_str(&request).map_err(wrong)?,
            priority,
            created: time(row.get(5)?).unwrap_or(0),
            deadline: time(row.get(6)?),
            partials: row.get::<_, i64>(7)?.max(0) as usize,
            idempotency: row.get::<_, Option<String>>(8)?.zip(row.get(9)?),
        },
        state: State::named(&row.get::<_, String>(10)?).unwrap_or(State::Failed),
        error: row.get::<_, Option<String>>(11)?.zip(row.get(12)?),
        finished: time(row.get(13)?),
        results: Vec::new(),
    })
}

fn result(row: &Row<'_>) -> rusqlite::Result<(usize, Stored)> {
    let ending: String = row.get(2)?;
    let ending = ENDINGS.into_iter().find(|known| *known == ending).unwrap_or(ENDINGS[0]);
    let stored = Stored { sha256: row.get(1)?, ending, bytes: row.get::<_, i64>(3)?.max(0) as u64 };
    Ok((row.get::<_, i64>(0)?.max(0) as usize, stored))
}
