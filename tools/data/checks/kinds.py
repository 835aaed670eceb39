"""The kinds of faults, how bad each is, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

ERROR, WARNING, NOTE = "error", "warning", "note"

# By how bad they are. The page and the report go in this order.
SEVERITIES = {
    ERROR: "training or evaluation stops, loses the object or learns what is wrong",
    WARNING: "training goes on, but something is probably not as it was meant",
    NOTE: "good to know",
}

# How far a box may reach out of its image before it counts, in pixels: labelling tools round.
REACH = 1.0

# How many times the image's longer side a polygon may reach out of it.
FAR = 1.0

# How far a side of a box may lie from that of its mask, in pixels, or as a share of the longer side if that is more. In
# the images of COCO and of nuclei that this was tried on it is 1 px at most, of run-length codes whose box leaves out
# the last column; where box and mask are drawn apart, by hand or by a model, they differ more and are not yet wrong.
APART, APART_SHARE = 3.0, 0.05

# Sizes of an image in the file and in the JSON that differ by less than this share are taken for a rounding.
ROUNDING = 0.02


@dataclass(frozen=True)
class Kind:
    """A kind of fault: what was found, in the plural, and what to do. `advice` says what --fix does, if anything."""

    severity: str
    what: str
    advice: str


KINDS = {
    # Images
    "malformed_image": Kind(
        ERROR,
        "image records without a whole id, a file_name, a height and a width",
        "Complete them; --fix reads numbers written as text, takes the size from the file, or drops the image.",
    ),
    "repeated_image_id": Kind(
        ERROR,
        "image ids that stand for a second record",
        "Give each image its own id. --fix drops a second record of the same file; of different files all go with "
        "their annotations, as nobody knows which belong to which.",
    ),
    "repeated_file_name": Kind(
        ERROR,
        "files that have a second record",
        "Each record shows the file without the other's objects; --fix puts all annotations under the first.",
    ),
    "outside_folder": Kind(
        ERROR,
        "file names that lead out of the folder of images",
        "Training refuses them. Name files relative to the folder; --fix drops these images.",
    ),
    "missing_image": Kind(
        ERROR,
        "image files that are not there",
        "Put them into the folder of images; --fix drops these images with their annotations.",
    ),
    "unreadable_image": Kind(
        ERROR,
        "image files that are cut short, damaged or no images",
        "Training stops at them. Copy them again; --fix drops these images with their annotations.",
    ),
    "wrong_size": Kind(
        ERROR,
        "image files of another size than the JSON says",
        "Were they resized or turned after they were labelled? --fix corrects the JSON where its numbers alone are "
        "wrong: the boxes fit the file, and it has other proportions or the same size within 2 %. Else boxes and "
        "pixels do not belong together, and it drops the image. Boxes and masks are checked once the size is right.",
    ),
    "cmyk_image": Kind(
        WARNING,
        "images in the colours of print (CMYK)",
        "Programs show them in different colours; save them as RGB.",
    ),
    "rotated_image": Kind(
        WARNING,
        "images that their EXIF data turns when shown",
        "Training takes the pixels as they are stored, as COCO does. If the boxes were drawn on the turned image, turn "
        "the pixels of the files, and drop the tag.",
    ),
    "empty_image": Kind(NOTE, "images without objects", "Training learns from them that there is nothing."),
    "repeated_image": Kind(
        NOTE, "files with the same content as another of the split", "Such an image counts more than once."
    ),
    "shared_image": Kind(
        WARNING,
        "files with the same content as one of another split",
        "What was trained on must not be evaluated on; take these out of one of the splits.",
    ),
    # Categories
    "malformed_category": Kind(
        ERROR,
        "category records without a whole id and a name",
        "Complete them; --fix reads numbers that are written as text, or drops the category.",
    ),
    "repeated_category_id": Kind(
        ERROR,
        "category ids that stand for a second category",
        "Give each category its own id, here and in its annotations; --fix keeps the first name.",
    ),
    "repeated_category_name": Kind(
        WARNING, "category names that stand for a second id", "The model would have to tell two equal classes apart."
    ),
    "other_categories": Kind(
        ERROR,
        "categories that another split has, and this one has not",
        "All splits need the same list of categories, with the same ids: write it into each file.",
    ),
    "unused_category": Kind(NOTE, "categories without objects", "Nothing of them can be learnt or measured."),
    # Annotations
    "malformed_annotation": Kind(
        ERROR,
        "annotations without a whole id, image_id and category_id, or with an area that is no number",
        "Complete them; --fix reads numbers that are written as text, gives a new id, measures the area, or drops the "
        "annotation.",
    ),
    "repeated_annotation_id": Kind(
        ERROR,
        "annotation ids that stand for a second annotation",
        "COCO's evaluation counts such objects wrongly; --fix gives new ids.",
    ),
    "unknown_image": Kind(
        ERROR, "annotations of images that are not listed", "List the images; --fix drops these annotations."
    ),
    "unknown_category": Kind(
        ERROR, "annotations of categories that are not listed", "List the categories; --fix drops these annotations."
    ),
    "malformed_box": Kind(
        ERROR,
        "boxes that are not four finite numbers",
        "A box is [x, y, width, height]; --fix reads numbers that are written as text, takes the box of the mask, or "
        "drops the annotation.",
    ),
    "degenerate_box": Kind(
        ERROR,
        "boxes without area in the image",
        "Training leaves them out, and their objects count as background. Draw them again; --fix takes the box of the "
        "mask, or drops the annotation.",
    ),
    "box_outside": Kind(
        WARNING,
        f"boxes that reach more than {REACH:g} px out of the image",
        "--fix clips them to the image.",
    ),
    "duplicate_box": Kind(
        WARNING,
        "boxes that are there twice: same image, category, box and mask",
        "The second can never be found; --fix drops it.",
    ),
    "malformed_mask": Kind(
        ERROR,
        "masks that cannot be read: no polygons, or a run-length code of another size or length",
        "Training on masks stops at them. Draw them again; --fix empties them and keeps the box.",
    ),
    "short_polygon": Kind(
        WARNING,
        "masks with polygons of fewer than three points",
        "Training passes over these polygons, other programs stop; --fix drops them.",
    ),
    "box_off_mask": Kind(
        ERROR,
        f"boxes that differ from their mask's by more than {APART:g} px and {APART_SHARE:.0%} of their longer side",
        "One of the two is wrong. Look at them; --fix takes the box of the mask.",
    ),
    # Label PNGs and others
    "unreadable_labels": Kind(ERROR, "label PNGs that cannot be read", "Training stops at them. Copy them again."),
    "wrong_label_size": Kind(
        ERROR,
        "label PNGs of another size than their image",
        "Were the images resized after they were labelled? A pair must have one size.",
    ),
    "unknown_label": Kind(
        ERROR,
        "labels that are no class",
        "Name the class in the data set's settings (data.labels), or ignore the value.",
    ),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault: its kind, the name of the split, where it is (an annotation, a file), and what is wrong there."""

    kind: str
    split: str
    where: str
    detail: str = ""
