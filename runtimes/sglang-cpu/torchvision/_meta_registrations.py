"""Nothing, in place of torchvision's own file of this name: labkit puts it into the CPU environment of SGLang, and nowhere else.

SGLang imports torchvision in every process, also for models that never see an image. PyPI has torchvision only for CUDA; beside
a CPU torch its compiled operators do not load, which torchvision allows, but this one file registers shapes for them all the
same and fails: "operator torchvision::nms does not exist". Without it the import works; the operators (nms, roi_align ...) stay
missing and say so when called. A torchvision built for the CPU (https://download.pytorch.org/whl/cpu) would not need this.
"""
