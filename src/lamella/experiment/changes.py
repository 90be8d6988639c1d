"""Name the keys that may change when a run is resumed."""

# The keys that may change when a run is resumed: how long it trains, where, and what makes no difference to the result.
CHANGEABLE_KEYS = (
    "trainer.max_epochs",
    "trainer.checkpoint_every",
    "trainer.chunk",
    "device.accelerator",
    "device.threads",
    "device.graph",
    "data.root",
    "data.source.root",
    "data.in_memory",
    "data.cache",
    "data.num_workers",
)
