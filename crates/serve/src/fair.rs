//! Which parts of jobs take part in the next call: deficit round robin over clients, by rows.
//!
//! Every client in turn gets credit for some rows and spends it on its own parts in order, so a client with many jobs or large
//! ones gets no more rows than the others while rows are scarce: Shreedhar & Varghese 1995, "Efficient fair queueing using
//! deficit round robin". Unused credit of clients without waiting parts is forgotten. A higher priority goes first.

use std::collections::HashMap;

use crate::order::Priority;

/// A part of a job that waits for a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Who ordered it.
    pub client: String,
    /// Its priority.
    pub priority: Priority,
    /// The order among the client's own parts: the least first.
    pub rank: (u64, u64, usize),
    /// Its rows in a call.
    pub rows: usize,
}

/// The credit of each client.
#[derive(Debug, Default)]
pub struct Fair {
    credit: HashMap<String, usize>,
    /// The client that goes first: the one whose part did not fit into the last call, or else the next one.
    next: Option<String>,
}

impl Fair {
    /// The places of the waiting parts that take part in a call of at most `most` rows, or of one part if that has more.
    pub fn choose(&mut self, most: usize, waiting: &[Waiting]) -> Vec<usize> {
        let mut chosen = Vec::new();
        let mut left = most.max(1);
        for priority in [Priority::High, Priority::Normal, Priority::Low] {
            self.choose_among(priority, most, &mut left, waiting, &mut chosen);
        }
        chosen
    }

    fn choose_among(
        &mut self,
        priority: Priority,
        most: usize,
        left: &mut usize,
        waiting: &[Waiting],
        chosen: &mut Vec<usize>,
    ) {
        let mut own: HashMap<&str, Vec<usize>> = HashMap::new();
        for (place, part) in waiting.iter().enumerate().filter(|(_, part)| part.priority == priority) {
            own.entry(&part.client).or_default().push(place);
        }
        let mut clients: Vec<&str> = own.keys().copied().collect();
        clients.sort_unstable();
        if let Some(next) = &self.next {
            let first = clients.iter().position(|client| *client >= next.as_str()).unwrap_or(0);
            clients.rotate_left(first);
        }
        for places in own.values_mut() {
            // Taken from the end.
            places.sort_by_key(|place| std::cmp::Reverse(waiting[*place].rank));
        }
        if *left > 0 && !clients.is_empty() {
            self.next = Some(clients[1 % clients.len()].to_owned());
        }
        let mut blocked = None;
        let share = (most / clients.len().max(1)).max(1);
        // Clients whose next part does not fit any more keep their credit for the next call.
        while *left > 0 && !clients.is_empty() {
            clients.retain(|client| {
                let credit = self.credit.entry((*client).to_owned()).or_default();
                *credit += share;
                let places = own.entry(client).or_default();
                while let Some(&place) = places.last() {
                    let rows = waiting[place].rows;
                    if rows > *credit {
                        return true;
                    }
                    if rows > *left && !chosen.is_empty() {
                        blocked.get_or_insert((*client).to_owned());
                        return false;
                    }
                    *credit -= rows;
                    *left = left.saturating_sub(rows);
                    chosen.push(place);
                    places.pop();
                    if *left == 0 {
                        break;
                    }
                }
                !places.is_empty()
            });
        }
        self.next = blocked.or(self.next.take());
        let largest = waiting.iter().map(|part| part.rows).max().unwrap_or(0);
        for (client, places) in own {
            if places.is_empty() {
                self.credit.remove(client);
            } else if let Some(credit) = self.credit.get_mut(client) {
                *credit = (*credit).min(most.max(largest));
            }
        }
    }

    /// Forgets the credit of clients without waiting parts.
    pub fn forget(&mut self, is_waiting: impl Fn(&str) -> bool) {
        self.credit.retain(|client, _| is_waiting(client));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(client: &str, number: u64, rows: usize) -> Waiting {
        Waiting { client: client.into(), priority: Priority::Normal, rank: (0, number, 0), rows }
    }

    #[test]
    fn rows_are_shared_by_clients_and_not_by_jobs() {
        // One client has ten parts of one row, another has two of three rows.
        let mut waiting: Vec<Waiting> = (0..10).map(|i| part("many", i, 1)).collect();
        waiting.extend([part("few", 0, 3), part("few", 1, 3)]);
        let (mut fair, mut rows) = (Fair::default(), HashMap::<&str, usize>::new());
        for _ in 0..60 {
            let chosen = fair.choose(4, &waiting);
            assert!(chosen.iter().map(|i| waiting[*i].rows).sum::<usize>() <= 4);
            for i in chosen {
                *rows.entry(&waiting[i].client).or_default() += waiting[i].rows;
            }
        }
        let (many, few) = (rows["many"] as f64, rows["few"] as f64);
        assert!((many / few - 1.0).abs() < 0.15, "{many} {few}");
    }

    #[test]
    fn everything_fits_if_there_is_room_and_the_first_go_first_if_not() {
        let waiting = [part("a", 2, 1), part("a", 1, 2), part("b", 1, 4)];
        let mut fair = Fair::default();
        let mut all = fair.choose(16, &waiting);
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2]);
        assert_eq!(Fair::default().choose(2, &waiting[..2]), [1]);
        // A part that is larger than the limit goes alone.
        assert_eq!(Fair::default().choose(2, &waiting[2..]), [0]);
        let high = Waiting { priority: Priority::High, ..part("c", 9, 2) };
        assert_eq!(Fair::default().choose(2, &[part("a", 1, 2), high]), [1]);
        assert!(Fair::default().choose(2, &[]).is_empty());
    }

    #[test]
    fn nobody_starves() {
        let waiting: Vec<Waiting> = ["a", "b", "c"].map(|client| part(client, 0, 4)).into();
        let mut fair = Fair::default();
        let mut times = [0; 3];
        for _ in 0..30 {
            fair.choose(4, &waiting).into_iter().for_each(|i| times[i] += 1);
        }
        assert_eq!(times, [10; 3]);
    }
}
