//! Deletion, and what may be deleted.

use super::Journal;
use crate::Fault;

/// Files that no job refers to any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unused {
    /// Results with their endings.
    pub results: Vec<(String, String)>,
    /// Uploads.
    pub inputs: Vec<String>,
}

impl Journal {
    /// Deletes a job that has ended. Returns the files that nothing refers to any more.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn delete(&self, id: &str) -> Result<Unused, Fault> {
        self.try_delete(id).map_err(|e| self.failed(e))
    }

    fn try_delete(&self, id: &str) -> rusqlite::Result<Unused> {
        let mut connection = self.lock();
        let step = connection.transaction()?;
        let mut unused = Unused::default();
        {
            let mut results = step.prepare(
                "SELECT DISTINCT sha256, ending FROM results a WHERE job = ?1 AND
                 NOT EXISTS (SELECT 1 FROM results b WHERE b.sha256 = a.sha256 AND b.job != ?1) AND
                 NOT EXISTS (SELECT 1 FROM uploads u WHERE u.sha256 = a.sha256 AND u.job != ?1)",
            )?;
            unused.results =
                results.query_map([id], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
            let mut inputs = step.prepare(
                "SELECT DISTINCT sha256 FROM uploads a WHERE job = ?1 AND
                 NOT EXISTS (SELECT 1 FROM uploads b WHERE b.sha256 = a.sha256 AND b.job != ?1)",
            )?;
            unused.inputs = inputs.query_map([id], |row| row.get(0))?.collect::<Result<_, _>>()?;
        }
        step.execute("DELETE FROM jobs WHERE id = ?1", [id])?;
        step.commit()?;
        Ok(unused)
    }

    /// Whether a job uses this upload. If the journal cannot be read, it may.
    pub fn uses(&self, hash: &str) -> bool {
        let what = "SELECT EXISTS (SELECT 1 FROM uploads WHERE sha256 = ?1)";
        self.lock().query_row(what, [hash], |row| row.get(0)).unwrap_or(true)
    }

    /// Jobs to delete, oldest first, so that results need at most `most` bytes.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub fn over_budget(&self, most: u64) -> rusqlite::Result<Vec<String>> {
        let connection = self.lock();
        let sum = "SELECT coalesce(sum(bytes), 0) FROM results";
        let mut over = connection.query_row(sum, [], |row| row.get::<_, i64>(0))? - most as i64;
        if over <= 0 {
            return Ok(Vec::new());
        }
        let mut query = connection.prepare(
            "SELECT id, coalesce(sum(bytes), 0) FROM jobs LEFT JOIN results ON job = id
             WHERE state NOT IN ('queued', 'running') GROUP BY id ORDER BY number",
        )?;
        let mut all = query.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
        let mut old = Vec::new();
        while over > 0
            && let Some(job) = all.next()
        {
            let (id, bytes) = job?;
            over -= bytes;
            old.push(id);
        }
        Ok(old)
    }
}
