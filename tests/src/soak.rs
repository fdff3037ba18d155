//! Long runs that a seed repeats: `scripts/soak PART`. Each part is a module below.

pub mod api;
mod behaved;
mod hostile;
mod process;

/// What a part is run with.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Of every choice that is made.
    pub seed: u64,
    /// How long the run is, in the part's own unit; none for the part's own length.
    pub rounds: Option<u64>,
}

/// Choices that look random and are not: SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Those of `player`, who has others than the rest.
    pub fn new(seed: u64, player: u64) -> Self {
        let mut dice = Self(seed ^ player.wrapping_mul(0xd134_2543_de82_ef95));
        dice.roll();
        dice
    }

    /// Any number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap_or(u64::MAX);
        usize::try_from(self.roll() % end).unwrap_or(0)
    }

    /// One of several.
    pub fn pick<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.below(among.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_and_player_make_the_same_choices_and_others_make_others() {
        let rolls = |seed, player| {
            let mut dice = Dice::new(seed, player);
            [(); 4].map(|()| dice.roll())
        };

        assert_eq!(rolls(7, 1), rolls(7, 1));
        assert_ne!(rolls(7, 1), rolls(7, 2));
        assert_ne!(rolls(7, 1), rolls(8, 1));
    }
}
