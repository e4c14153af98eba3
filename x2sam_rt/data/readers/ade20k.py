"""ADE20K with 150 categories (X2SAM: img_ovseg/ade20k).

    <root>/images/validation/<image>.jpg                            training for the split train
    <root>/annotations/validation/<image>.png                       a category's number from 1; 0 is void
    <root>/annotations_instance/validation/<image>.png              R: number among the 100 things, from 1; G: instance

or, made from these by Mask2Former's scripts:

    <root>/ade20k_panoptic_val.json, ade20k_panoptic_val/<image>.png              COCO's panoptic form
    <root>/annotations_detectron2/validation/<image>.png                          numbers from 0; 255 is void
    <root>/ade20k_instance_val.json                                               COCO's form

Where the converted files are there, they are read. Each image is an example.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from x2sam_rt.data.example import Example, IdMasks, Target
from x2sam_rt.data.readers.annotated import AnnotatedExample
from x2sam_rt.data.readers.categories import CategoryList
from x2sam_rt.data.readers.files import Frames, list_frames
from x2sam_rt.data.readers.folders import DataFolder
from x2sam_rt.data.readers.instances import read_coco_form
from x2sam_rt.data.readers.label_maps import SemanticSample, label_table, looked_up, read_panoptic_images
from x2sam_rt.data.readers.masks import Indices, read_colours, read_indices
from x2sam_rt.data.readers.sample import Contents, FileSample
from x2sam_rt.errors import DataError
from x2sam_rt.media.types import LabelMap
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.published import category_name

_FOLDERS = {"val": "validation", "train": "training"}
_STUFF_BASE = 1000  # ids of stuff segments; instances have their own numbers, below 256
# In the order of their numbers. A category with commas is one, with several names.
_NAMES = """
wall; building; sky; floor; tree; ceiling; road, route; bed; window; grass; cabinet; sidewalk, pavement; person;
earth, ground; door; table; mountain, mount; plant; curtain; chair; car; water; painting, picture; sofa; shelf;
house; sea; mirror; rug; field; armchair; seat; fence; desk; rock, stone; wardrobe, closet, press; lamp; tub; rail;
cushion; base, pedestal, stand; box; column, pillar; signboard, sign; chest of drawers, chest, bureau, dresser;
counter; sand; sink; skyscraper; fireplace; refrigerator, icebox; grandstand, covered stand; path; stairs; runway;
case, display case, showcase, vitrine; pool table, billiard table, snooker table; pillow; screen door, screen;
stairway, staircase; river; bridge, span; bookcase; blind, screen; coffee table;
toilet, can, commode, crapper, pot, potty, stool, throne; flower; book; hill; bench; countertop; stove;
palm, palm tree; kitchen island; computer; swivel chair; boat; bar; arcade machine;
hovel, hut, hutch, shack, shanty; bus; towel; light; truck; tower; chandelier; awning, sunshade, sunblind;
street lamp; booth; tv; plane; dirt track; clothes; pole; land, ground, soil;
bannister, banister, balustrade, balusters, handrail; escalator, moving staircase, moving stairway;
ottoman, pouf, pouffe, puff, hassock; bottle; buffet, counter, sideboard;
poster, posting, placard, notice, bill, card; stage; van; ship; fountain;
conveyer belt, conveyor belt, conveyer, conveyor, transporter; canopy; washer, automatic washer, washing machine;
plaything, toy; pool; stool; barrel, cask; basket, handbasket; falls; tent; bag; minibike, motorbike; cradle; oven;
ball; food, solid food; step, stair; tank, storage tank; trade name; microwave; pot; animal; bicycle; lake;
dishwasher; screen; blanket, cover; sculpture; hood, exhaust hood; sconce; vase; traffic light; tray; trash can; fan;
pier; crt screen; plate; monitor; bulletin board; shower; radiator; glass, drinking glass; clock; flag
"""
# Numbers from 0 of those that no instance is drawn for; the others are things.
_STUFF = frozenset(
    {0, 1, 2, 3, 4, 5, 6, 9, 11, 13, 16, 17, 21, 25, 26, 28, 29, 34, 40, 46, 48, 51, 52, 54, 59, 60, 61, 63, 68, 77}
    | {79, 84, 91, 94, 96, 99, 100, 101, 105, 106, 109, 113, 114, 117, 122, 128, 131, 140, 141, 145}
)


def ade20k_categories() -> CategoryList:
    """Ids from 0, as in the converted files."""
    names = [" ".join(name.split()) for name in _NAMES.split(";")]
    return CategoryList.of(
        [{"id": number, "name": name, "isthing": int(number not in _STUFF)} for number, name in enumerate(names)]
    )


@dataclass(frozen=True, eq=False)
class ScenePanopticSample(FileSample):
    """semantic, instances: the official PNGs. Stuff is painted by category, instances over it."""

    semantic: Path
    instances: Path
    categories: CategoryList

    def labels(self) -> tuple[Path, ...]:
        return self.semantic, self.instances

    def example(self, frames: Frames) -> Example:
        ids, conditions = self._segments(frames)
        return AnnotatedExample(
            name=self.name,
            media="image",
            frames=frames.pixels,
            instruction=Instruction("panoptic", things=self.categories.things, stuff=self.categories.stuff),
            conditions=len(self.categories),
            targets=tuple(Target(condition, IdMasks(ids[None], id), id) for id, condition in conditions.items()),
        )

    def _segments(self, frames: Frames) -> tuple[LabelMap, dict[int, int]]:
        """(H, W) int32 ids, 0 void, and the condition of each."""
        numbers = read_indices(frames, 0, self.semantic).astype(np.int32) - 1
        ids = np.where(np.isin(numbers, list(_STUFF)), _STUFF_BASE + numbers, 0).astype(np.int32)
        things, instances = thing_numbers(frames, self.instances)
        ids[instances > 0] = instances[instances > 0]
        conditions = {id: self.categories.conditions[category] for id, category in things.items()}
        stuff = {id for id in np.unique(ids).tolist() if id >= _STUFF_BASE}
        shown = set(np.unique(ids).tolist())
        conditions |= {id: self.categories.conditions[id - _STUFF_BASE] for id in stuff}
        return ids, {id: condition for id, condition in conditions.items() if id in shown}


@dataclass(frozen=True, eq=False)
class SceneInstanceSample(FileSample):
    """instances: the official PNG."""

    instances: Path
    categories: CategoryList

    def labels(self) -> tuple[Path, ...]:
        return (self.instances,)

    def example(self, frames: Frames) -> Example:
        things, instances = thing_numbers(frames, self.instances)
        names = self.categories.things
        return AnnotatedExample(
            name=self.name,
            media="image",
            frames=frames.pixels,
            instruction=Instruction("instance", things=names),
            conditions=len(names),
            targets=tuple(
                Target(self.categories.conditions[category], IdMasks(instances[None], id), id)
                for id, category in things.items()
            ),
        )


def thing_numbers(frames: Frames, path: Path) -> tuple[dict[int, int], Indices]:
    """The category's number, from 0 among all 150, of each instance, and the map of instances, (H, W), 0 none.

    Raises DataError for an instance of several categories, or of one that is no thing.
    """
    things = [number for number in range(150) if number not in _STUFF]
    colours = read_colours(frames, 0, path)
    kinds, instances = colours[..., 0], colours[..., 1]
    found = {}
    for id in sorted(set(np.unique(instances).tolist()) - {0}):
        (kind, *more) = np.unique(kinds[instances == id]).tolist()
        if more or not 1 <= kind <= len(things):
            raise DataError(
                f"Example {frames.example}: {path}: instance {id} is of the categories {[kind, *more]}; wanted one, "
                f"1 to {len(things)}."
            )
        found[id] = things[kind - 1]
    return found, instances


def read_ade20k_panoptic(folder: DataFolder) -> Contents:
    """ADE20K (Zhou et al., CVPR 2017): val, train. Raises DataError."""
    converted = folder.look("ade20k_panoptic_{split}.json")
    if converted is not None:
        maps = folder.find("PNGs of segments", "ade20k_panoptic_{split}")
        return read_panoptic_images(folder, converted, maps, _place(folder, "images"), category_name)
    images, categories = _images(folder), ade20k_categories()
    semantic, instances = _place(folder, "annotations"), _place(folder, "annotations_instance")
    samples = [
        ScenePanopticSample(
            folder.example(image.stem),
            (image,),
            semantic / f"{image.stem}.png",
            instances / f"{image.stem}.png",
            categories,
        )
        for image in images
    ]
    return Contents(tuple(samples), categories)


def read_ade20k_semantic(folder: DataFolder) -> Contents:
    """All 150 categories, pixel by pixel. Raises DataError."""
    converted = folder.look(f"annotations_detectron2/{_of_split(folder)}")
    maps = converted or _place(folder, "annotations")
    categories = ade20k_categories().of_one_kind()
    samples = [_semantic(folder, image, maps, categories, shifted=converted is not None) for image in _images(folder)]
    return Contents(tuple(samples), categories)


def read_ade20k_instance(folder: DataFolder) -> Contents:
    """The 100 things. Raises DataError."""
    if (converted := folder.look("ade20k_instance_{split}.json")) is not None:
        return read_coco_form(folder, converted, _place(folder, "images"), category_name)
    maps, whole = _place(folder, "annotations_instance"), ade20k_categories()
    things = {id: condition for id, condition in whole.conditions.items() if id not in _STUFF}
    categories = CategoryList(whole.things, (), things, tuple(range(len(things))))
    samples = [
        SceneInstanceSample(folder.example(image.stem), (image,), maps / f"{image.stem}.png", categories)
        for image in _images(folder)
    ]
    return Contents(tuple(samples), categories)


def _semantic(
    folder: DataFolder, image: Path, maps: Path, categories: CategoryList, *, shifted: bool
) -> SemanticSample:
    """shifted: numbers from 0, as detectron2 wants them."""
    map, table = maps / f"{image.stem}.png", label_table(categories, (255,))
    table = table if shifted else np.concatenate([table[-1:], table[:-1]])
    name = folder.example(image.stem)

    def read(frames: Frames, frame: int) -> tuple[LabelMap, None]:
        return looked_up(table, read_indices(frames, frame, map), f"Example {name}: {map}"), None

    return SemanticSample(name, (image,), "image", (map,), categories, read)


def _images(folder: DataFolder) -> tuple[Path, ...]:
    place = _place(folder, "images")
    if not (images := list_frames(place)):
        raise DataError(f"{place}: holds no images. Check the data set's folder and the name of the split.")
    return images


def _place(folder: DataFolder, kind: str) -> Path:
    return folder.find(kind, f"{kind}/{_of_split(folder)}")


def _of_split(folder: DataFolder) -> str:
    return _FOLDERS.get(folder.split, folder.split)
