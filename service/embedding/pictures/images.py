"""Picture bytes to pixels in this process: for building, measuring and tests.

The service decodes in processes that can be ended (`embedding.pictures.decoders`). Both use
`embedding.pictures.reading`.
"""

from __future__ import annotations

import numpy as np

from service.embedding.pictures.reading import Picture, read_picture
from service.embedding.port import Pixels
from service.errors import InvalidImage

BYTES_MAX = 20_000_000
PIXELS_MAX = 25_000_000


def decode_image(data: bytes, *, bytes_max: int = BYTES_MAX, pixels_max: int = PIXELS_MAX) -> Pixels:
    """Return the picture as (height, width, 3) uint8 RGB.

    Raises InvalidImage: image_too_large (bytes), and as `read_picture`.
    """
    check_bytes(data, bytes_max)
    return pixels_of(read_picture(data, pixels_max=pixels_max))


def check_bytes(data: bytes, bytes_max: int) -> None:
    """Raises InvalidImage where a picture file is larger than `bytes_max`."""
    if len(data) > bytes_max:
        raise InvalidImage(
            "image_too_large", f"The picture has {len(data)} bytes; at most {bytes_max} are read."
        )


def pixels_of(picture: Picture) -> Pixels:
    """Return the pixels of a decoded picture, without a copy."""
    return np.frombuffer(picture.rgb, np.uint8).reshape(picture.height, picture.width, 3)
