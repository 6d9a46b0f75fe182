# SPDX-License-Identifier: Apache-2.0
"""Base colours of materials with KHR_materials_pbrSpecularGlossiness.

The archived extension describes a surface by a diffuse and a specular colour. A matt surface has
the first, a metal the second. The conversion that Khronos published with the extension (appendix
and examples) finds how metallic a surface is, and from it the base colour that looks the same in
the metallic-roughness model.
"""

import numpy as np

# Reflectance of surfaces that are no metals.
_DIELECTRIC = 0.04
# Contributions of the channels to the brightness that people perceive.
_BRIGHTNESS = np.array([0.299, 0.587, 0.114], np.float32)
_TINY = 1e-6


def base_colours(diffuse: np.ndarray, specular: np.ndarray) -> np.ndarray:
    """Converts diffuse and specular colours to base colours.

    Args:
      diffuse: linear [..., 3].
      specular: linear [..., 3], of a shape that broadcasts with `diffuse`.

    Returns:
      float32 [..., 3], linear, 0 to 1.
    """
    diffuse, specular = np.broadcast_arrays(
        np.asarray(diffuse, np.float32), np.asarray(specular, np.float32)
    )
    # Share of the light that is not reflected at the surface, relative to that of plastic.
    inner = (1 - specular.max(axis=-1, keepdims=True)) / (1 - _DIELECTRIC)
    metallic = _metallic(_brightness(diffuse) * inner, _brightness(specular))
    matt = diffuse * (inner / np.maximum(1 - metallic, _TINY))
    metal = (specular - _DIELECTRIC * (1 - metallic)) / np.maximum(metallic, _TINY)
    share = metallic * metallic
    return np.clip(matt + (metal - matt) * share, 0, 1)


def matt_scale(specular: np.ndarray) -> float | None:
    """Returns the factor from diffuse to base colours; None if it depends on the diffuse colour.

    Args:
      specular: linear [3], specular colour of the whole surface.
    """
    if _brightness(np.asarray(specular, np.float32))[0] >= _DIELECTRIC:
        return None
    return float((1 - np.max(specular)) / (1 - _DIELECTRIC))


def _brightness(colours: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(colours) @ _BRIGHTNESS)[..., None]


def _metallic(diffuse: np.ndarray, specular: np.ndarray) -> np.ndarray:
    """Solves for the metallic value at which a base colour reflects both brightnesses.

    In the metallic-roughness model, with base brightness b and metallic value m, the specular
    brightness is 0.04 (1 - m) + b m and the diffuse one b (1 - m). Without b this is a quadratic
    equation for m.
    """
    half = (diffuse + specular) / 2 - _DIELECTRIC
    root = np.sqrt(np.maximum(half * half - _DIELECTRIC * (_DIELECTRIC - specular), 0))
    metallic = np.clip((root - half) / _DIELECTRIC, 0, 1)
    return np.where(specular < _DIELECTRIC, 0, metallic)
