use super::*;

const ANSWER: Duration = Duration::from_micros(40);

/// A driver that keeps `depth` quick requests under way and adds one each `gap` when it has been told, and the clock.
struct Driver {
    moderation: Moderation,
    now: Instant,
    gap: Duration,
    depth: u32,
    /// Requests that it may still make before it is told.
    left: u32,
}

impl Driver {
    fn new(depth: u32) -> Self {
        let gap = Duration::from_micros(10);
        Self { moderation: Moderation::default(), now: Instant::now(), gap, depth, left: depth }
    }

    /// One request after the other, until the driver is told; how many it is told of, and how long was waited in vain.
    fn told(&mut self) -> (u32, Duration) {
        let mut vain = Duration::ZERO;
        loop {
            self.left -= 1;
            self.moderation.begun(self.now);
            if self.moderation.done(Duration::ZERO) {
                break;
            }
            let Some(patience) = self.moderation.patience() else { break };
            let comes = self.left > 0 && self.gap < patience;
            self.now += if comes { self.gap } else { patience };
            self.moderation.waited(comes);
            if !comes {
                vain += patience;
                break;
            }
        }
        let told = self.moderation.untold;
        self.moderation.told(self.now);
        self.now += ANSWER;
        self.left = (self.left + told).min(self.depth);
        (told, vain)
    }

    /// The same, so many times.
    fn times(&mut self, count: u32) -> Vec<(u32, Duration)> {
        (0..count).map(|_| self.told()).collect()
    }
}

#[test]
fn driver_that_waits_for_each_request_is_told_of_each() {
    let told = Driver::new(1).times(100_000);

    assert!(told.iter().all(|(count, _)| *count == 1));
    let waits = told.iter().filter(|(_, vain)| !vain.is_zero()).count();
    // 10 with growing pauses, then one in 1,024; the first time nothing is known of answers.
    assert_eq!(waits, 10 + 100_000 / 1025);
}

#[test]
fn driver_is_told_together_of_what_it_keeps_under_way_without_a_wait_in_vain() {
    for depth in [2, 3, 7, MOST_TOGETHER] {
        let mut driver = Driver::new(depth);
        let learning = driver.times(200);
        assert!(learning.iter().any(|(count, _)| *count == depth), "{depth}: {learning:?}");

        let told = driver.times(1000);

        assert!(told.iter().all(|(count, _)| *count == depth), "{depth}: {told:?}");
        let waits = told.iter().filter(|(_, vain)| !vain.is_zero()).count();
        assert!(waits <= 10, "{depth}: {waits}");
    }
}

#[test]
fn driver_is_told_of_sixteen_if_it_keeps_more_under_way() {
    let mut driver = Driver::new(64);
    driver.times(200);
    assert!(driver.times(100).iter().all(|told| *told == (MOST_TOGETHER, Duration::ZERO)));
}

#[test]
fn driver_that_comes_to_keep_fewer_under_way_costs_one_wait() {
    let mut driver = Driver::new(16);
    driver.times(200);
    (driver.depth, driver.left) = (1, 1);

    let told = driver.times(100);

    assert!(told.iter().all(|(count, _)| *count == 1));
    let vain: Duration = told.iter().map(|(_, vain)| *vain).sum();
    // One because more were under way, and the tries with growing pauses.
    assert!(vain <= ANSWER * 8, "{vain:?}");
}

#[test]
fn wait_is_as_long_as_an_answer_takes() {
    let mut moderation = Moderation::default();
    let now = Instant::now();
    moderation.begun(now);
    moderation.done(Duration::ZERO);
    assert_eq!(moderation.patience(), None);
    moderation.told(now);
    moderation.begun(now + ANSWER);
    moderation.done(Duration::ZERO);
    assert_eq!(moderation.patience(), Some(ANSWER));
}

#[test]
fn nothing_is_waited_for_where_answers_take_long() {
    let mut moderation = Moderation::default();
    let now = Instant::now();
    moderation.told(now);
    moderation.begun(now + PATIENCE * 2);
    moderation.done(Duration::ZERO);
    assert_eq!(moderation.patience(), None);
}

#[test]
fn slow_request_is_told_of_at_once() {
    assert!(Moderation::default().done(QUICK * 2));
    assert!(!Moderation::default().done(QUICK));
}

#[test]
fn driver_that_does_not_want_to_know_is_not_waited_for() {
    let mut moderation = Moderation::default();
    moderation.done(Duration::ZERO);
    moderation.not_wanted();
    assert!(!moderation.has_untold());
    assert_eq!(moderation.patience(), None);
}
