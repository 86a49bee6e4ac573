//! Load-test workers for Tidegate.
fn main(){}
