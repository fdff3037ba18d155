//! The choice of resets, by value.

use super::*;

const A: &str = "0000:01:00.0";
const B: &str = "0000:01:00.1";
const C: &str = "0000:02:00.0";

fn reached(list: &[(&str, u32)]) -> Vec<Affected> {
    let affected =
        |(name, group): &(&str, u32)| Affected { name: (*name).to_owned(), group: *group };
    list.iter().map(affected).collect()
}

fn together(list: &[(&str, u32)]) -> Means {
    Means::Together { reach: reached(list), alone: None }
}

/// Resettable alone by its power state, or with these.
fn weak(list: &[(&str, u32)]) -> Means {
    Means::weighed(Some(POWER_STATE.to_owned()), Ok(reached(list)))
}

fn flr() -> Means {
    Means::Alone("flr".to_owned())
}

fn sorted(functions: &[(&str, u32, &Means)]) -> Vec<Set> {
    let candidate = |at: usize| {
        let (name, group, means) = functions[at];
        Candidate { name, group: Some(group), means }
    };
    sets(&(0..functions.len()).map(candidate).collect::<Vec<_>>())
}

fn set(members: &[usize], method: Method) -> Set {
    Set { members: members.to_vec(), method }
}

#[test]
fn functions_with_a_reset_of_their_own_are_reset_alone() {
    let flr = flr();

    let sets = sorted(&[(A, 7, &flr), (C, 8, &flr)]);

    let alone = Method::Alone("flr".to_owned());
    assert_eq!(sets, [set(&[0], alone.clone()), set(&[1], alone)]);
}

#[test]
fn functions_of_one_bus_share_a_hot_reset() {
    let means = together(&[(A, 7), (B, 7)]);

    let sets = sorted(&[(A, 7, &means), (B, 7, &means)]);

    assert_eq!(sets, [set(&[0, 1], Method::Together)]);
}

#[test]
fn neighbour_with_a_reset_of_its_own_is_part_of_the_hot_reset_that_hits_it() {
    let (means, flr) = (together(&[(A, 7), (B, 8)]), flr());

    let sets = sorted(&[(C, 9, &flr), (A, 7, &flr), (B, 8, &means)]);

    let expected = [set(&[2, 1], Method::Together), set(&[0], Method::Alone("flr".to_owned()))];
    assert_eq!(sets, expected);
}

#[test]
fn hot_reset_that_would_hit_a_group_of_somebody_else_is_not_done() {
    let means = together(&[(A, 7), (B, 8)]);

    let sets = sorted(&[(A, 7, &means)]);

    let [Set { members, method: Method::Nothing(why) }] = &sets[..] else { panic!("{sets:?}") };
    assert_eq!(members, &[0]);
    assert!(why.contains(B) && why.contains("group 8"), "{why}");
}

#[test]
fn neighbour_of_a_group_of_ours_need_not_be_the_guest_s() {
    let means = together(&[(A, 7), (B, 7)]);

    assert_eq!(sorted(&[(A, 7, &means)]), [set(&[0], Method::Together)]);
}

#[test]
fn the_widest_hot_reset_serves_those_that_it_reaches() {
    let narrow = together(&[(C, 9)]);
    let wide = together(&[(A, 7), (B, 7), (C, 9)]);

    let sets = sorted(&[(C, 9, &narrow), (A, 7, &wide), (B, 7, &wide)]);

    assert_eq!(sets, [set(&[1, 0, 2], Method::Together)]);
}

#[test]
fn function_without_any_reset_says_why() {
    let (none, nobody) = (Means::Nothing("no way".to_owned()), together(&[]));

    let sets = sorted(&[(A, 7, &none), (C, 8, &nobody)]);

    assert_eq!(sets[0], set(&[0], Method::Nothing("no way".to_owned())));
    assert!(matches!(sets[1].method, Method::Nothing(_)), "{sets:?}");
}

#[test]
fn each_group_is_named_once() {
    assert_eq!(groups(&reached(&[(A, 8), (B, 7), (C, 8)])), [7, 8]);
}

#[test]
fn hot_reset_goes_before_a_change_of_the_power_state() {
    let means = weak(&[(A, 7)]);

    assert_eq!(sorted(&[(A, 7, &means)]), [set(&[0], Method::Together)]);
    assert!(means.is_better_on_arrival(A));
}

#[test]
fn power_state_is_changed_where_a_hot_reset_would_hit_somebody_else() {
    let (means, nobody) = (weak(&[(A, 7), (B, 8)]), weak(&[]));

    let sets = sorted(&[(A, 7, &means), (C, 9, &nobody)]);

    let alone = Method::Alone(POWER_STATE.to_owned());
    assert_eq!(sets, [set(&[0], alone.clone()), set(&[1], alone)]);
}

#[test]
fn nobody_else_is_hit_when_a_function_arrives() {
    let on_arrival = |means: &Means| means.is_better_on_arrival(A);

    assert!(!on_arrival(&weak(&[(A, 7), (B, 7)])), "its neighbour may be in use");
    assert!(!on_arrival(&weak(&[(B, 7)])), "the kernel names another");
    assert!(!on_arrival(&weak(&[])), "the kernel names nobody");
    assert!(!on_arrival(&together(&[(A, 7)])), "the kernel's own reset was this one");
    assert!(!on_arrival(&flr()));
}

#[test]
fn weak_reset_is_better_than_none() {
    let refused = |code| Err(io::Error::from_raw_os_error(code));
    let pm = Some(POWER_STATE.to_owned());

    assert_eq!(Means::weighed(pm, refused(libc::ENODEV)), Means::Alone(POWER_STATE.to_owned()));
    assert!(matches!(Means::weighed(None, refused(libc::ENODEV)), Means::Nothing(_)));
    assert!(matches!(Means::weighed(None, refused(libc::EPERM)), Means::Nothing(_)));
}
