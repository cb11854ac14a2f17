//! Wires every component together, in one readable function.
