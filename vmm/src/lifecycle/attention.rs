//! Two ways to get a guest's attention: its power button, and an interrupt that it
//! cannot mask. Both are done when they are given; what the guest makes of them is its
//! own business. A guest that stands still notices at the resume.

use super::Vmm;
use crate::machine::Machine;

impl Vmm {
    /// Interrupts every processor of the guest, whatever it has masked.
    pub fn interrupt(&mut self) {
        if let Some(machine) = self.guest() {
            machine.vcpus.interrupt_all();
            log::info!("the guest's processors get a non-maskable interrupt");
        }
    }

    /// Presses the guest's power button. A guest that is not listening yet is reminded.
    pub fn press_button(&mut self) {
        if let Some(machine) = self.guest() {
            machine.button.press();
            log::info!("the guest's power button is pressed");
            self.start_timer();
        }
    }

    fn guest(&self) -> Option<&Machine> {
        self.vm.as_ref()?.stage.machine()
    }
}
