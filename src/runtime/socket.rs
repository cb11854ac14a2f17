//! How every TCP connection is set up, to clients and to servers.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Of silence, before the kernel asks the other end whether it is there.
const IDLE: Duration = Duration::from_secs(30);

/// Between two questions.
const INTERVAL: Duration = Duration::from_secs(10);

/// So many of them unanswered end the connection.
const QUESTIONS: u32 = 3;

/// Sends small pieces at once, and lets the kernel find out within a minute that the other end has gone without a word.
/// A connection that cannot be set up so works all the same.
pub fn set_up(stream: &TcpStream) {
    let _best_effort = stream.set_nodelay(true);
    let keepalive = TcpKeepalive::new()
        .with_time(IDLE)
        .with_interval(INTERVAL)
        .with_retries(QUESTIONS);
    let _best_effort = SockRef::from(stream).set_tcp_keepalive(&keepalive);
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_silent_end_is_asked_whether_it_is_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        set_up(&stream);
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap() && stream.nodelay().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), IDLE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), INTERVAL);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), QUESTIONS);
    }
}
