//! What one principal knows of one collection: the pure view state machine, pages and selectors.
