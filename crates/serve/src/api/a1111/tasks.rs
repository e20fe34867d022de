//! What belongs to a client of this API: its jobs and its model.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::live::Live;

/// The jobs and models of all clients.
#[derive(Default)]
pub struct Tasks {
    jobs: HashMap<String, Vec<Arc<Live>>>,
    models: HashMap<String, String>,
}

/// Access to the tasks.
pub fn of(tasks: &Mutex<Tasks>) -> MutexGuard<'_, Tasks> {
    tasks.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tasks {
    /// Adds a job.
    pub fn add(&mut self, client: &str, live: &Arc<Live>) {
        let jobs = self.jobs.entry(client.into()).or_default();
        jobs.retain(|live| live.outcome().is_none());
        jobs.push(live.clone());
    }

    /// The jobs of a client that have not ended, in order.
    pub fn present(&mut self, client: &str) -> Vec<Arc<Live>> {
        let Some(jobs) = self.jobs.get_mut(client) else { return Vec::new() };
        jobs.retain(|live| live.outcome().is_none() && !live.is_cancelled());
        jobs.clone()
    }

    /// The model that a client has selected.
    pub fn model(&self, client: &str) -> Option<String> {
        self.models.get(client).cloned()
    }

    /// Selects a model.
    pub fn select(&mut self, client: &str, model: String) {
        self.models.insert(client.into(), model);
    }
}
