"""What to do about each kind of finding on tensors and settings, and which of them PEFT's own merge can do.

Advice is of things that can be done: none of it names a setting that a function has not or an engine that refuses.
"""

from __future__ import annotations

PEFT_CAN = ("layer kind", "dora size", "tied embeddings", "lora_bias")
"""Kinds that are about labkit's way alone; settings: `models.adapter.PEFT_MERGES`."""
FIXES = {
    "lora_bias": "train with lora_bias=False.",
    "unknown tensors": "Find out in the program that trained them what they belong to; if it is of no consequence, take them out.",
    "no such head": "Name the base that has it: for a classifier or reward model, the folder that training began with or saved "
    "(transformers: AutoModelForSequenceClassification).",
    "two versions": "Save the adapter again with PEFT's save_pretrained, one adapter to a folder.",
    "base mismatch": "Name the base that the adapter was trained on (base_model_name_or_path in adapter_config.json).",
    "half a pair": "Save the adapter again; this file is not whole.",
    "layer kind": "train matrices only (target_modules).",
    "rank": "Put the rank of the tensors into adapter_config.json, with the lora_alpha of the training.",
    "not targeted": "Put the modules into target_modules of adapter_config.json, or remove their tensors.",
    "dora": "Set use_dora in adapter_config.json as it was in training.",
    "dora size": "train without DoRA on these.",
    "tied embeddings": "train without lm_head and embed_tokens, or whole (modules_to_save) with ensure_weight_tying=True: they stay one.",
    "tied pair": "train without lm_head and embed_tokens, or whole (modules_to_save). If changing both is what you want: "
    'labkit.lora.merge(..., method="peft", accept=["tied pair"]).',
    "tensor type": "Merge into the base in bf16, and quantise the result.",
    "adapter type": "Save the adapter in fp32 or bf16.",
    "vocabulary": "Resize the base's embeddings to it first (transformers: resize_token_embeddings), or train without added tokens.",
    "lora_alpha": "Put the lora_alpha of the training into adapter_config.json (VERL's merger writes 0 when it does not find it).",
    "target modules": "Compare target_modules with the base's module names.",
    "wrapped names": "If others are to read it, save it with PEFT's save_pretrained, called on the model inside (accelerate: unwrap_model; "
    "torch.compile: model._orig_mod).",
}
"""Kind of finding -> what to do, beside PEFT where it can."""
SETTING_FIXES = {
    "other": "train a plain LoRA.",
    "alora_invocation_tokens": "run it with PEFT (transformers): aLoRA cannot be merged, and neither vLLM nor SGLang serves it.",
    "arrow_config": "run it with PEFT (transformers): a router cannot be merged, and neither vLLM nor SGLang serves it.",
    "layer_replication": "run it with PEFT (transformers): it cannot be merged, and neither vLLM nor SGLang serves it.",
    "use_qalora": "run it with PEFT on the quantised base that it was trained on; it cannot be merged.",
    "megatron_config": "Have the training save it in Hugging Face's layout (megatron_config unset).",
    "init_lora_weights": "have it saved as a plain adapter: save_pretrained(..., path_initial_model_for_weight_conversion=...), which "
    "PiSSA, OLoRA and CorDA can; or merge it into the base that its training saved at the start (PEFT: get_base_model().save_pretrained), "
    "with init_lora_weights true in a copy of adapter_config.json.",
    "peft_type": "train a plain LoRA.",
}
"""Setting of adapter_config.json that a merge refuses -> what to do, beside PEFT where it can."""
