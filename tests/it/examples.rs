//! The story of `examples/quickstart.rs` is true. `.ci/run` runs the program itself, in release; here its modules are
//! compiled in, so that `cargo test` alone shows a step that is not true any more, for two seconds beside the others.

#[path = "../../examples/quickstart/lab.rs"]
mod lab;
#[path = "../../examples/quickstart/story.rs"]
mod story;
#[path = "../../examples/quickstart/teller.rs"]
mod teller;

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use self::lab::Lab;
use self::teller::Teller;

#[derive(Clone, Default)]
struct Transcript(Arc<Mutex<Vec<u8>>>);

impl Write for Transcript {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transcript {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quickstart_tells_a_true_story() {
    let transcript = Transcript::default();
    let mut teller = Teller::new(Box::new(transcript.clone()), false);
    let mut lab = Lab::new().unwrap();
    if let Err(error) = story::tell(&mut lab, &mut teller).await {
        panic!("{}\n{}", transcript.text(), teller.failure(&error));
    }
    assert!(
        transcript.text().contains("All 10 steps are true"),
        "{}",
        transcript.text()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_is_not_true_says_what_was_expected_and_what_came() {
    let mut teller = Teller::new(Box::new(Transcript::default()), false);
    let mut lab = Lab::new().unwrap();
    lab.start().await.unwrap();
    teller.step("A wish").unwrap();
    let kubelet = lab.kubelet().unwrap();
    let error = teller.get(&kubelet, "/api/v1/services", 200).await.unwrap_err();
    let told = teller.failure(&error);
    assert!(
        told.starts_with(
            "step 1, \"A wish\", did not come true: GET /api/v1/services: expected 200, came 403"
        ),
        "{told}"
    );
}
