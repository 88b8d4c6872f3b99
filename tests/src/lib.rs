//! What the tests of netpath share.
