"""What the layers of Keras are called in torch, for the error about an unknown layer."""

import re

SAME_WORD = {
    "Dense": "write Linear",
    "FullyConnected": "write Linear",
    "FC": "write Linear",
    "BatchNormalization": "write BatchNorm2d for images, and BatchNorm1d after Flatten",
    "LayerNormalization": "write LayerNorm",
    "GroupNormalization": "write GroupNorm",
    "Activation": "write the activation as a layer of its own: ReLU",
    "SimpleRNN": "write RNN",
    "Lambda": "torch.nn has no such layer; write a Module of your own",
    "Concatenate": "branches that are joined are a Concat",
    "Input": "leave it out; the shape of the input is data.shape",
    "InputLayer": "leave it out; the shape of the input is data.shape",
    "MultiHeadAttention": "self-attention is `SelfAttention: {heads: 4}`",
}
# Names with the number of dimensions, of which torch has one for each: Conv2D is Conv2d.
WITH_DIMENSIONS = {
    "Conv": "Conv{}d",
    "Convolution": "Conv{}d",
    "Conv{}Transpose": "ConvTranspose{}d",
    "MaxPooling": "MaxPool{}d",
    "MaxPool": "MaxPool{}d",
    "AveragePooling": "AvgPool{}d",
    "AvgPool": "AvgPool{}d",
    "GlobalAveragePooling": "AdaptiveAvgPool{}d: 1",
    "GlobalMaxPooling": "AdaptiveMaxPool{}d: 1",
    "SpatialDropout": "Dropout{}d",
    "ZeroPadding": "ZeroPad{}d",
    "BatchNorm": "BatchNorm{}d",
}


def hint_for_keras_name(name: str) -> str | None:
    """Return what to write for a layer of Keras, or None for any other name."""
    if name in SAME_WORD:
        return SAME_WORD[name]
    if name.startswith("UpSampling"):
        return "write Upsample: {scale_factor: 2}"
    for word, written in WITH_DIMENSIONS.items():
        before, _, after = word.partition("{}")
        match = re.fullmatch(rf"{before}([123])?[Dd]?{after}", name)
        if match:
            return f"write {written.format(match[1] or 2)}"
    return None
