//! Connections that the agent serves at a time: so many and no more, whoever connects.

use std::{collections::VecDeque, future::Future};

use tokio::task::{self, AbortHandle};

/// Those who are served. Everyone gets in; when all places are taken, whoever came first has to go.
///
/// Those who ask are gone in a moment: who stays longest says nothing.
pub(crate) struct ConnectionLimit {
    places: usize,
    served: VecDeque<AbortHandle>,
}

impl ConnectionLimit {
    /// Room for so many.
    pub(crate) fn new(places: usize) -> Self {
        Self { places, served: VecDeque::new() }
    }

    /// Serves one more, and lets it begin before the next one comes.
    pub(crate) async fn admit(&mut self, serving: impl Future<Output = ()> + Send + 'static) {
        self.served.retain(|guest| !guest.is_finished());
        if self.served.len() >= self.places {
            log::debug!("{} connections are open: the first one is closed", self.served.len());
            self.served.drain(..1).for_each(|first| first.abort());
        }
        self.served.push_back(tokio::spawn(serving).abort_handle());
        task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use std::future;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn who_says_nothing_makes_room_for_who_comes_later() {
        let mut connection_limit = ConnectionLimit::new(2);
        let mut ended = Vec::new();
        for _ in 0..4 {
            let (held, end) = oneshot::channel::<()>();
            ended.push(end);
            connection_limit
                .admit(async move {
                    future::pending::<()>().await;
                    drop(held);
                })
                .await;
        }
        task::yield_now().await;
        let gone = |end: &mut oneshot::Receiver<()>| {
            end.try_recv() == Err(oneshot::error::TryRecvError::Closed)
        };
        assert_eq!(ended.iter_mut().map(gone).collect::<Vec<_>>(), [true, true, false, false]);
    }

    #[tokio::test]
    async fn who_is_done_takes_no_place() {
        let mut connection_limit = ConnectionLimit::new(1);
        let (mut held, _end) = oneshot::channel::<()>();
        connection_limit.admit(async {}).await;
        connection_limit.admit(async move { held.closed().await }).await;
        assert_eq!(connection_limit.served.len(), 1);
    }
}
