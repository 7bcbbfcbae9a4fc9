"""Small pictures of every kind, and what PIL and transformers' image processors make of them.

    python make.py        (pillow, numpy, safetensors, torch, transformers)

<name> are files; expected.safetensors has "<name>" [H, W, 3] U8 as Image.open(...).convert("RGB") gives it, "resize.<filter>.<w>x<h>" of
photo.png, and "process.<case>" and "process.<case>.tall" [C, H, W] F32, of photo and tall, for the configurations in processors.json.
"""
import json
import os

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

HERE = os.path.dirname(os.path.abspath(__file__))
rng = np.random.default_rng(3)
y, x = np.mgrid[0:21, 0:30]
photo = np.stack([(x * 8) % 256, (y * 12 + x) % 256, ((x - 14) ** 2 + (y - 10) ** 2) % 256], -1).astype(np.uint8)
photo[5:9, 3:11] = rng.integers(0, 256, (4, 8, 3))
smooth = np.stack([x * 8, y * 12, 255 - x * 4 - y * 5], -1).clip(0, 255).astype(np.uint8)
at = lambda name: os.path.join(HERE, name)

Image.fromarray(photo).save(at("photo.png"))
Image.fromarray(photo[..., 0]).save(at("grey.png"))
Image.fromarray(photo).quantize(16).save(at("palette.png"))
Image.fromarray(np.concatenate([photo, photo[..., :1]], -1)).save(at("alpha.png"))
Image.fromarray(np.stack([photo[..., 0], photo[..., 1]], -1), "LA").save(at("grey-alpha.png"))
Image.fromarray(photo[..., 1] > 128).save(at("bits.png"))
Image.fromarray(smooth).save(at("photo.jpg"), quality=90)
Image.fromarray(smooth).save(at("progressive.jpg"), quality=80, progressive=True, subsampling=2)
Image.fromarray(smooth[..., 0]).save(at("grey.jpg"))
Image.fromarray(smooth).convert("CMYK").save(at("cmyk.jpg"), quality=95)
Image.fromarray(photo).save(at("photo.ppm"))
Image.fromarray(photo[..., 0]).save(at("grey.pgm"))
tall = np.ascontiguousarray(np.tile(photo, (2, 1, 1))[:40, 9:26])
Image.fromarray(tall).save(at("tall.ppm"))
with open(at("text.ppm"), "w") as f:
    f.write("P3 # as text\n3 2\n# largest\n 15\n" + " ".join(str(v) for v in rng.integers(0, 16, 18)) + "\n")

out = {}
for name in sorted(os.listdir(HERE)):
    if name.split(".")[-1] in ("png", "jpg", "ppm", "pgm"):
        out[name] = torch.from_numpy(np.array(Image.open(at(name)).convert("RGB")))
for filter in range(6):
    for size in ((30, 21), (12, 12), (47, 9), (30, 40), (64, 21), (1, 1)):
        out[f"resize.{filter}.{size[0]}x{size[1]}"] = torch.from_numpy(np.array(Image.fromarray(photo).resize(size, filter)))
cases = {
    "vit": (ViTImageProcessorPil, dict(size={"height": 12, "width": 12})),
    "deit": (DeiTImageProcessorPil, dict(size={"height": 16, "width": 16}, crop_size={"height": 12, "width": 12})),
    "edge": (DeiTImageProcessorPil, dict(size={"shortest_edge": 14}, crop_size={"height": 12, "width": 12}, resample=2,
                                         image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])),
    "pad": (DeiTImageProcessorPil, dict(do_resize=False, crop_size={"height": 40, "width": 33}, do_normalize=False)),
    "up": (DeiTImageProcessorPil, dict(size={"shortest_edge": 33}, crop_size={"height": 12, "width": 44}, resample=3, do_rescale=False)),
    "imagenet": (ViTImageProcessorPil, dict(size={"height": 24, "width": 16}, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])),
    "nearest": (DeiTImageProcessorPil, dict(size={"height": 18, "width": 15}, crop_size={"height": 13, "width": 8}, resample=0, do_normalize=False)),
    "bytes": (ViTImageProcessorPil, dict(size={"height": 7, "width": 9}, do_rescale=False, do_normalize=False, resample=3)),
}
configs = {}
for name, (cls, options) in cases.items():
    processor = cls(**options)
    out["process." + name] = processor(Image.fromarray(photo), return_tensors="pt")["pixel_values"][0].float()
    out["process." + name + ".tall"] = processor(Image.fromarray(tall), return_tensors="pt")["pixel_values"][0].float()
    configs[name] = json.loads(processor.to_json_string())
with open(at("processors.json"), "w") as f:
    json.dump(configs, f, indent=1, sort_keys=True)
save_file({k: v.contiguous() for k, v in out.items()}, at("expected.safetensors"))
