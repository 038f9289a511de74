//! The numbered feed's records, blocks and messages, and the cursor that follows them: pure, without I/O.
//!
//! Empty until the journal and the numbered feed land; until then the pipeline carries the plain feed alone.
