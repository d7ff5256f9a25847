//! The protocol as a seeded simulation.
