//! One test for each bug that was found after it had been believed absent, with what it was and what showed it.

mod common;
