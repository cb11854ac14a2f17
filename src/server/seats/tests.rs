use std::time::Duration;

use super::*;

fn ip(last: u8) -> IpAddr {
    [169, 254, 20, last].into()
}

fn stranger(last: u8) -> Holder {
    Holder::Stranger(ip(last))
}

fn configured(name: &str) -> Holder {
    Holder::Configured(name.into())
}

async fn tick() {
    tokio::time::advance(Duration::from_millis(10)).await;
}

fn is_sent_away(seat: &Seat) -> bool {
    seat.state.sent_away.is_cancelled()
}

/// Comes and is known at once.
async fn comes(seats: &Seats, holder: Holder) -> Result<Seat, Full> {
    tick().await;
    let source = match &holder {
        Holder::Stranger(source) | Holder::Shaking(source) => *source,
        Holder::Configured(_) => ip(1),
    };
    let seat = seats.arrive(source);
    seat.seated(holder)?;
    Ok(seat)
}

#[tokio::test(start_paused = true)]
async fn handshakes_that_take_long_give_way_to_those_that_come() {
    let seats = Seats::new(Room::of(16));
    let kubelet = seats.arrive(ip(1));
    let mut slow = Vec::new();
    for _ in 0..20 {
        tick().await;
        slow.push(seats.arrive(ip(2)));
    }
    let waiting = slow.iter().filter(|seat| !is_sent_away(seat)).count();
    assert_eq!(waiting, 1, "and one of another source");
    assert!(!is_sent_away(&slow[19]), "the oldest have gone");
    assert!(!is_sent_away(&kubelet), "the source with most of them loses one");
    assert_eq!(kubelet.seated(configured("a")), Ok(()));
    assert_eq!(slow[0].seated(stranger(2)), Err(Full), "its place is another's");
}

#[tokio::test(start_paused = true)]
async fn of_strangers_the_longest_idle_goes_and_whoever_is_busy_stays() {
    let seats = Seats::new(Room::of(16));
    let mut all = Vec::new();
    for last in 0..6 {
        all.push(comes(&seats, stranger(last)).await.unwrap());
    }
    let request = all[0].busy();
    tick().await;
    drop(all[1].busy());
    let seventh = comes(&seats, stranger(9)).await.unwrap();
    let gone: Vec<usize> = (0..6).filter(|n| is_sent_away(&all[*n])).collect();
    assert_eq!(gone, [2], "the first is busy, the second was just now");
    let held: Vec<Busy> = all.iter().chain([&seventh]).map(Seat::busy).collect();
    assert!(comes(&seats, stranger(10)).await.is_err(), "all are busy");
    assert!(
        comes(&seats, configured("a")).await.is_ok(),
        "but that is no matter of his"
    );
    drop((request, held));
    assert!(comes(&seats, stranger(10)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn no_source_and_no_client_has_more_than_half() {
    let seats = Seats::new(Room::of(16));
    for (holder, other, room) in [
        (stranger(1), stranger(2), 6),
        (configured("a"), configured("b"), 8),
    ] {
        let first = comes(&seats, other.clone()).await.unwrap();
        let mut greedy = Vec::new();
        for _ in 0..room {
            greedy.push(comes(&seats, holder.clone()).await.unwrap());
        }
        let stay = greedy.iter().filter(|seat| !is_sent_away(seat)).count();
        assert_eq!(stay, room / 2, "{holder:?}");
        assert!(!is_sent_away(&first), "{other:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_place_that_was_left_is_free() {
    let seats = Seats::new(Room::of(4));
    for _ in 0..100 {
        let held = comes(&seats, stranger(1)).await.unwrap();
        let _busy = held.busy();
    }
    let table = seats.0.lock();
    assert!(table.taken.is_empty() && table.strangers.each.is_empty() && table.shaking.all == 0);
}
