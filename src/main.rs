//! The Tidegate service.
fn main(){}
