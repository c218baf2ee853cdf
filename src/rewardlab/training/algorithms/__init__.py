"""One file per algorithm: how to fill the streams of a batch, and which objective reads them."""
