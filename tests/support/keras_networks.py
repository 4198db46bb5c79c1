"""Reference networks in Keras: the notes' two, layer by layer as the notes describe them, and weights to test with.

Keras must be imported with ``KERAS_BACKEND=torch``: the fixture `keras` in `conftest.py` sees to that.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

VGG16_BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
RESNET50_STAGES = ((2, 3, 64), (3, 4, 128), (4, 6, 256), (5, 3, 512))
L2 = 1e-4


def notes_vgg16(keras: ModuleType, classes: int = 100) -> Any:
    """The notes' VGG16 at 32×32×3: "same" convolutions, a dense layer on the 512 values that are left."""
    layers = keras.layers
    x = image = keras.Input((32, 32, 3))
    for block, (convolutions, filters) in enumerate(VGG16_BLOCKS, start=1):
        for conv in range(1, convolutions + 1):
            name = f"block{block}_conv{conv}"
            x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=name)(x)
        x = layers.MaxPooling2D(2, strides=2, name=f"block{block}_pool")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(4096, activation="relu", name="fc1")(x)
    x = layers.Dense(4096, activation="relu", name="fc2")(x)
    return keras.Model(image, layers.Dense(classes, activation="softmax", name="predictions")(x), name="vgg16")


def notes_resnet50(keras: ModuleType, classes: int = 100, *, shortcut_first: bool = False) -> Any:
    """The notes' ResNet50 at 32×32×3.

    Args:
        keras: the module.
        classes: outputs.
        shortcut_first: which of its operands each sum names first. The notes do not say; it makes no difference to
            the values, but it does to the order in which Keras lists and numbers the layers.
    """
    layers = keras.layers

    def conv(x: Any, filters: int, size: int, name: str, **options: Any) -> Any:
        x = layers.Conv2D(
            filters,
            size,
            use_bias=False,
            kernel_initializer="he_normal",
            kernel_regularizer=keras.regularizers.L2(L2),
            name=name,
            **options,
        )(x)
        norm = "bn_conv1" if name == "conv1" else name.replace("res", "bn")
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=norm)(x)

    image = keras.Input((32, 32, 3))
    x = layers.ZeroPadding2D(3, name="conv1_pad")(image)
    x = layers.Activation("relu")(conv(x, 64, 7, "conv1", strides=2, padding="valid"))
    x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    for stage, blocks, filters in RESNET50_STAGES:
        for block in "abcdef"[:blocks]:
            name = f"res{stage}{block}_branch"
            strides = 2 if block == "a" and stage > 2 else 1
            y = layers.Activation("relu")(conv(x, filters, 1, f"{name}2a"))
            y = layers.Activation("relu")(conv(y, filters, 3, f"{name}2b", strides=strides, padding="same"))
            y = conv(y, 4 * filters, 1, f"{name}2c")
            shortcut = conv(x, 4 * filters, 1, f"{name}1", strides=strides) if block == "a" else x
            x = layers.Activation("relu")(layers.add([shortcut, y] if shortcut_first else [y, shortcut]))
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(
        classes,
        activation="softmax",
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        kernel_regularizer=keras.regularizers.L2(L2),
        bias_regularizer=keras.regularizers.L2(L2),
        name="fc1000",
    )(x)
    return keras.Model(image, x, name="resnet50")


def draw_weights(model: Any, seed: int, gain: float) -> None:
    """Give every parameter and every BatchNorm statistic a random value of its own.

    Kernels keep the variance of what passes through; those of the last layer are `gain` times as large. They are cut
    from one long row of random numbers, each from another place, as VGG's 140 million would take long to draw.
    """
    rng = np.random.default_rng(seed)
    row = rng.standard_normal(1_000_003, np.float32)  # a prime: no row or column of a kernel is like another

    def near(mean: float, spread: float, shape: tuple[int, ...]) -> np.ndarray:
        return rng.uniform(mean - spread, mean + spread, shape).astype(np.float32)

    for layer in model.layers:
        kinds = [variable.name for variable in layer.weights]
        values = {}
        for kind, variable in zip(kinds, layer.weights, strict=True):
            shape = tuple(variable.shape)
            if kind == "kernel":
                deviation = np.sqrt(2 / np.prod(shape[:-1])) * (gain if layer is model.layers[-1] else 1)
                values[kind] = np.resize(np.roll(row * np.float32(deviation), rng.integers(row.size)), shape)
            elif kind == "gamma":
                values[kind] = near(0.6, 0.2, shape)
            elif kind == "moving_variance":
                values[kind] = near(1.0, 0.5, shape)
            else:  # bias, beta, moving_mean
                values[kind] = near(0.0, 0.2, shape)
        layer.set_weights([values[kind] for kind in kinds])


def remove_softmax(keras: ModuleType, model: Any) -> Any:
    """Take the activation from the last layer, so that the model gives logits; returns the model."""
    model.layers[-1].activation = keras.activations.linear
    return model


def random_images(count: int, side: int, seed: int) -> np.ndarray:
    """uint8 count×side×side×3 in RGB: smooth blots of color, no two alike in brightness or place."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (count, 4, 4, 3)).astype(np.float32)
    smooth = coarse.repeat(side // 4, axis=1).repeat(side // 4, axis=2)
    return np.clip(smooth + rng.normal(0, 10, smooth.shape), 0, 255).astype(np.uint8)
