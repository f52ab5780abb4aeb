"""How one network is trained: data, recipe, LightningModule, trial."""
