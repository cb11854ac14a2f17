//! The emulated link: carries IP packets between two TUN devices, with delay, loss and a limited rate.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tun_rs::{AsyncDevice, DeviceBuilder};

/// The largest packet of a device.
const MTU: usize = 1400;

/// A packet that would wait longer for its turn on a narrow link is dropped, as a router's full queue does.
const LONGEST_QUEUE: Duration = Duration::from_secs(2);

/// How a link is. Each direction by itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conditions {
    /// Whether packets pass at all; `false` is a black hole.
    pub(crate) up: bool,
    /// The share of packets that get lost, in each direction.
    pub(crate) loss: f64,
    /// One way; a round trip takes twice as long.
    pub(crate) delay: Duration,
    /// Bits per second, in each direction.
    pub(crate) rate: Option<u64>,
}

impl Conditions {
    /// As good as the loopback.
    pub(crate) const GOOD: Self = Self {
        up: true,
        loss: 0.0,
        delay: Duration::ZERO,
        rate: None,
    };

    /// Everything disappears.
    pub(crate) const BLACK_HOLE: Self = Self {
        up: false,
        ..Self::GOOD
    };
}

/// Two devices and what is between them.
#[derive(Debug)]
pub(crate) struct Wire {
    conditions: watch::Sender<Conditions>,
    carriers: [JoinHandle<()>; 2],
}

impl Wire {
    /// Two devices with these names, in this namespace, and a good link between them. The random generator's `seed`
    /// decides what gets lost.
    pub(crate) fn between(one: &str, other: &str, seed: u64) -> anyhow::Result<Self> {
        let device = |name: &str| -> anyhow::Result<Arc<AsyncDevice>> {
            Ok(Arc::new(DeviceBuilder::new().name(name).build_async()?))
        };
        let (one, other) = (device(one)?, device(other)?);
        let conditions = watch::Sender::new(Conditions::GOOD);
        let carrier = |from: &Arc<AsyncDevice>, to: &Arc<AsyncDevice>, seed: u64| {
            let random = fastrand::Rng::with_seed(seed);
            tokio::spawn(carry(
                Arc::clone(from),
                Arc::clone(to),
                conditions.subscribe(),
                random,
            ))
        };
        let carriers = [carrier(&one, &other, seed), carrier(&other, &one, seed ^ 1)];
        Ok(Self { conditions, carriers })
    }

    /// From now on the link is so. What is under way arrives if the link is up then.
    pub(crate) fn set(&self, conditions: Conditions) {
        self.conditions.send_replace(conditions);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.carriers.iter().for_each(JoinHandle::abort);
    }
}

async fn carry(
    from: Arc<AsyncDevice>,
    to: Arc<AsyncDevice>,
    conditions: watch::Receiver<Conditions>,
    mut random: fastrand::Rng,
) {
    let (queue, mut queued) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let arriving = conditions.clone();
    let deliver = async move {
        while let Some((at, packet)) = queued.recv().await {
            tokio::time::sleep_until(at).await;
            if arriving.borrow().up {
                // A device whose other end is being set up refuses packets: lost, like any other.
                let _lost = to.send(&packet).await;
            }
        }
    };
    let accept = async move {
        let mut buffer = vec![0; MTU + 200];
        let mut free_at = Instant::now();
        while let Ok(length) = from.recv(&mut buffer).await {
            let now = Instant::now();
            let Conditions {
                up,
                loss,
                delay,
                rate,
            } = *conditions.borrow();
            let begins = free_at.max(now);
            if !up || random.f64() < loss || begins - now > LONGEST_QUEUE {
                continue;
            }
            let bits = length as f64 * 8.0;
            free_at =
                begins + rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(bits / rate as f64));
            let packet = buffer.get(..length).unwrap_or_default().to_vec();
            if queue.send((free_at + delay, packet)).is_err() {
                return;
            }
        }
    };
    tokio::join!(deliver, accept);
}
