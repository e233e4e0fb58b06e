"""Short chat templates in the shapes that models have, and the text each writes in front of a memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

TALK = "{% for m in messages %}"
END = "{% endfor %}"


OPENERS = (
    "[INST]", "<|start_header_id|>", "<start_of_turn>", "<|im_start|>", "<|user|>", "USER:", "User:", "### ",
    "<|START_OF_TURN_TOKEN|>", "<｜User｜>", "<|start_of_role|>", "[USER]",
)  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """A template, and the text before a memory in a chat without a system message and in one that says "be brief"."""

    template: str
    alone: str
    system: str | None  # None: the template refuses system messages
    specials: tuple[str, ...] = ()
    bos: str | None = None
    alternating: bool = False  # refuses chats that do not begin with the user

    @property
    def header(self) -> str:
        """What opens a user's turn."""
        return self.alone[max(self.alone.rfind(sign) for sign in OPENERS) :] if self.alone != self.bos else ""


def _chatml(default: str = "", role: str = "m.role", tools: str = "") -> str:
    first = "{% if messages[0].role != 'system' %}<|im_start|>system\n" + default + "<|im_end|>\n{% endif %}"
    return (
        (first if default else "")
        + tools
        + TALK
        + f"<|im_start|>{{{{ {role} }}}}\n{{{{ m.content }}}}<|im_end|>\n"
        + END
        + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


IM = ("<|im_start|>", "<|im_end|>")
SYSTEM_FIRST = "{% if messages[0].role == 'system' %}{% set sys = messages[0].content %}{% set talk = messages[1:] %}{% else %}{% set sys = '' %}{% set talk = messages %}{% endif %}"
ALTERNATING = (
    "{% for m in talk %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% endfor %}"
)
INST = (
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
)
# Content that may be a text or a list of parts.
PARTS = "{% if m.content is string %}{{ m.content | trim }}{% else %}{% for p in m.content %}{% if p.type == 'text' %}{{ p.text | trim }}{% else %}<image>{% endif %}{% endfor %}{% endif %}"
GEMMA = (
    "{{ bos_token }}%s{%% for m in talk %%}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "%s%s<end_of_turn>\n{%% endfor %%}{%% if add_generation_prompt %%}<start_of_turn>model\n{%% endif %%}"
)
CONTENT = "{{ m.content | trim }}"
LLAMA3 = (
    "{{ bos_token }}"
    + SYSTEM_FIRST
    + "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
    "Today Date: {{ strftime_now('%d %b %Y') }}\n\n{{ sys | trim }}<|eot_id|>"
    "{% for m in talk %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{% if loop.first and tools %}Given the following functions, answer with a call.\n\n{% for t in tools %}{{ t | tojson(indent=4) }}\n\n{% endfor %}{% endif %}"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL3 = (
    SYSTEM_FIRST + ALTERNATING + "{{ bos_token }}{% for m in talk %}{% if m.role == 'user' %}"
    "{% if loop.last and tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "[INST]SPACE{% if sys and (loop.last or (loop.length - loop.index == 1)) %}{{ sys }}\n\n{% endif %}{{ m.content }}[/INST]"
    "{% else %}SPACE{{ m.content }}</s>{% endif %}{% endfor %}"
)
DATE = "Cutting Knowledge Date: December 2023\nToday Date: 07 Mar 2031\n\n"
TURN = "<|START_OF_TURN_TOKEN|>"

SHAPES: dict[str, Shape] = {
    "llama-2": Shape(
        SYSTEM_FIRST + ALTERNATING + "{% for m in talk %}{% if m.role == 'user' %}{{ bos_token }}[INST] "
        "{% if loop.first and sys %}<<SYS>>\n{{ sys }}\n<</SYS>>\n\n{% endif %}{{ m.content.strip() }} [/INST]"
        "{% else %} {{ m.content.strip() }} </s>{% endif %}{% endfor %}",
        "<s>[INST] ", "<s>[INST] ", ("<s>", "</s>"), "<s>", True,
    ),
    "llama-2 with a default": Shape(
        SYSTEM_FIRST + ALTERNATING + "{% for m in talk %}{% if m.role == 'user' %}{{ bos_token }}[INST] "
        "{% if loop.first %}<<SYS>>\n{{ sys or 'You are honest.' }}\n<</SYS>>\n\n{% endif %}{{ m.content.strip() }} [/INST]"
        "{% else %} {{ m.content.strip() }} </s>{% endif %}{% endfor %}",
        "<s>[INST] ", "<s>[INST] ", ("<s>", "</s>"), "<s>", True,
    ),
    "llama-3": Shape(
        LLAMA3,
        f"<|begin|><|start_header_id|>system<|end_header_id|>\n\n{DATE}<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n",
        f"<|begin|><|start_header_id|>system<|end_header_id|>\n\n{DATE}be brief<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n",
        ("<|begin|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), "<|begin|>",
    ),
    "mistral v1": Shape(
        MISTRAL3.replace("SPACE", " "), "<s>[INST] ", "<s>[INST] ", ("<s>", "</s>"), "<s>", True,
    ),
    "mistral v3": Shape(
        MISTRAL3.replace("SPACE", " "), "<s>[INST] ", "<s>[INST] ", INST, "<s>", True,
    ),
    "mistral nemo": Shape(
        MISTRAL3.replace("SPACE", ""), "<s>[INST]", "<s>[INST]", INST, "<s>", True,
    ),
    "mistral v7": Shape(
        SYSTEM_FIRST + "{{ bos_token }}{% if sys %}[SYSTEM_PROMPT]{{ sys }}[/SYSTEM_PROMPT]{% endif %}"
        "{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
        "{% for m in talk %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]{% else %}{{ m.content }}</s>{% endif %}{% endfor %}",
        "<s>[INST]", "<s>[SYSTEM_PROMPT]be brief[/SYSTEM_PROMPT][INST]", INST, "<s>",
    ),
    "gemma 1": Shape(
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% set talk = messages %}"
        + GEMMA % (ALTERNATING, "", CONTENT),
        "<bos><start_of_turn>user\n", None, ("<bos>", "<start_of_turn>", "<end_of_turn>"), "<bos>", True,
    ),
    "gemma 3": Shape(
        "{% if messages[0].role == 'system' %}{% set sys = (messages[0].content if messages[0].content is string else messages[0].content[0].text) + '\n\n' %}"
        "{% set talk = messages[1:] %}{% else %}{% set sys = '' %}{% set talk = messages %}{% endif %}"
        + GEMMA % (ALTERNATING, "{{ sys if loop.first }}", PARTS),
        "<bos><start_of_turn>user\n", "<bos><start_of_turn>user\n", ("<bos>", "<start_of_turn>", "<end_of_turn>"), "<bos>", True,
    ),
    "chatml": Shape(_chatml(), "<|im_start|>user\n", "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\n", IM),
    "qwen": Shape(
        "{% if tools %}<|im_start|>system\n{{ messages[0].content if messages[0].role == 'system' else 'You are kind.' }}\n\n# Tools\n\n"
        "{% for t in tools %}{{ t | tojson }}\n{% endfor %}</tools><|im_end|>\n{% set messages = messages[1:] if messages[0].role == 'system' else messages %}"
        "{% elif messages[0].role != 'system' %}<|im_start|>system\nYou are kind.<|im_end|>\n{% endif %}" + _chatml(),
        "<|im_start|>system\nYou are kind.<|im_end|>\n<|im_start|>user\n",
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\n", IM,
    ),
    "smollm2": Shape(
        _chatml("You are a small model."), "<|im_start|>system\nYou are a small model.<|im_end|>\n<|im_start|>user\n",
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\n", IM, "<|im_start|>",
    ),
    "phi-3": Shape(
        TALK + "<|{{ m.role }}|>\n{{ m.content }}<|end|>\n" + END + "{% if add_generation_prompt %}<|assistant|>\n{% else %}<|endoftext|>{% endif %}",
        "<|user|>\n", "<|system|>\nbe brief<|end|>\n<|user|>\n", ("<|user|>", "<|system|>", "<|assistant|>", "<|endoftext|>"),
    ),
    "phi-4": Shape(
        TALK + "<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>" + END + "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}",
        "<|im_start|>user<|im_sep|>", "<|im_start|>system<|im_sep|>be brief<|im_end|><|im_start|>user<|im_sep|>", (*IM, "<|im_sep|>"),
    ),
    "zephyr": Shape(
        TALK + "<|{{ m.role }}|>\n{{ m.content + eos_token }}\n" + END + "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        "<|user|>\n", "<|system|>\nbe brief<|end|>\n<|user|>\n",
    ),
    "vicuna": Shape(
        SYSTEM_FIRST + "{{ bos_token }}{{ sys or 'A chat between a curious user and an assistant.' }}"
        "{% for m in talk %}{% if m.role == 'user' %} USER: {{ m.content }}{% else %} ASSISTANT: {{ m.content }}</s>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %} ASSISTANT:{% endif %}",
        "<s>A chat between a curious user and an assistant. USER: ", "<s>be brief USER: ", ("<s>", "</s>"), "<s>",
    ),
    "alpaca": Shape(
        SYSTEM_FIRST + "{{ sys or 'Below is an instruction. Write a response.' }}\n\n"
        "{% for m in talk %}{% if m.role == 'user' %}### Instruction:\n{{ m.content }}\n\n{% else %}### Response:\n{{ m.content }}\n\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}### Response:\n{% endif %}",
        "Below is an instruction. Write a response.\n\n### Instruction:\n", "be brief\n\n### Instruction:\n",
    ),
    "command-r": Shape(
        "{{ bos_token }}" + SYSTEM_FIRST + "{% if sys or documents or tools %}" + TURN + "<|SYSTEM_TOKEN|>{{ sys or 'You are helpful.' }}{% for d in documents or [] %}\n{{ d.text }}{% endfor %}<|END_OF_TURN_TOKEN|>{% endif %}"
        "{% for m in talk %}" + TURN + "{{ '<|USER_TOKEN|>' if m.role == 'user' else '<|CHATBOT_TOKEN|>' }}{{ m.content.strip() }}<|END_OF_TURN_TOKEN|>{% endfor %}"
        "{% if add_generation_prompt %}" + TURN + "<|CHATBOT_TOKEN|>{% endif %}",
        f"<bos>{TURN}<|USER_TOKEN|>", f"<bos>{TURN}<|SYSTEM_TOKEN|>be brief<|END_OF_TURN_TOKEN|>{TURN}<|USER_TOKEN|>",
        ("<bos>", TURN, "<|USER_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"), "<bos>",
    ),
    "deepseek": Shape(
        "{{ bos_token }}" + SYSTEM_FIRST + "{{ sys }}{% for m in talk %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}"
        "{% else %}<｜Assistant｜>{{ m.content.split('</think>')[-1] }}<｜end▁of▁sentence｜>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}",
        "<bos><｜User｜>", "<bos>be brief<｜User｜>", ("<bos>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"), "<bos>",
    ),
    "deepseek 1": Shape(
        "{{ bos_token }}" + TALK + "{% if m.role == 'user' %}User: {{ m.content }}\n\n{% elif m.role == 'assistant' %}Assistant: {{ m.content }}<｜end▁of▁sentence｜>"
        "{% else %}{{ m.content }}\n\n{% endif %}" + END + "{% if add_generation_prompt %}Assistant:{% endif %}",
        "<bos>User: ", "<bos>be brief\n\nUser: ", ("<bos>", "<｜end▁of▁sentence｜>"), "<bos>",
    ),
    "falcon": Shape(
        TALK + "{{ '' if loop.first else '\n\n' }}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}User: {{ m.content | replace('\n\n', '\n') }}"
        "{% else %}Falcon: {{ m.content }}{% endif %}" + END + "{% if add_generation_prompt %}\n\nFalcon:{% endif %}",
        "User: ", "be brief\n\nUser: ",
    ),
    "olmo": Shape(
        "{{ bos_token }}" + TALK + "{% if m.role == 'system' %}<|system|>\n{{ m.content }}\n{% elif m.role == 'user' %}<|user|>\n{{ m.content }}\n"
        "{% else %}<|assistant|>\n{{ m.content }}{% if not loop.last %}{{ eos_token }}\n{% else %}{{ eos_token }}{% endif %}{% endif %}"
        + END + "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        "<bos><|user|>\n", "<bos><|system|>\nbe brief\n<|user|>\n", ("<bos>",), "<bos>",
    ),
    "granite": Shape(
        "{% if messages[0].role != 'system' %}<|start_of_role|>system<|end_of_role|>Today's Date: {{ strftime_now('%B %d, %Y') }}.<|end_of_text|>\n{% endif %}"
        + TALK + "<|start_of_role|>{{ m.role }}<|end_of_role|>{{ m.content }}<|end_of_text|>\n" + END
        + "{% if documents %}{% endif %}{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}",
        "<|start_of_role|>system<|end_of_role|>Today's Date: March 07, 2031.<|end_of_text|>\n<|start_of_role|>user<|end_of_role|>",
        "<|start_of_role|>system<|end_of_role|>be brief<|end_of_text|>\n<|start_of_role|>user<|end_of_role|>",
        ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"),
    ),
    "title-cased roles": Shape(_chatml(role="m.role | title"), "<|im_start|>User\n", "<|im_start|>System\nbe brief<|im_end|>\n<|im_start|>User\n", IM),
    "renamed roles": Shape(
        _chatml(role="{'user': 'human', 'assistant': 'gpt', 'system': 'context'}[m.role]"),
        "<|im_start|>human\n", "<|im_start|>context\nbe brief<|im_end|>\n<|im_start|>human\n", IM,
    ),
    "uppercase": Shape(
        TALK + "[{{ m.role | upper }}]{{ m.content | upper }}|" + END + "{% if add_generation_prompt %}[ASSISTANT]{% endif %}",
        "[USER]", "[SYSTEM]BE BRIEF|[USER]",
    ),
    "parts only": Shape(
        TALK + "{{ m.role | capitalize }}:{% for p in m.content %}{% if p['type'] == 'text' %}{{ p['text'] }}{% endif %}{% endfor %}<end>\n" + END
        + "{% if add_generation_prompt %}Assistant:{% endif %}",
        "User:", "System:be brief<end>\nUser:", ("<end>",),
    ),
    "no header": Shape("{{ bos_token }}" + TALK + "{{ m.content }}{{ eos_token }}" + END, "<bos>", "<bos>", ("<bos>",), "<bos>"),
}  # fmt: skip

SPECIALS = sorted({token for shape in SHAPES.values() for token in shape.specials})


def with_specials(tokenizer: Any) -> Any:
    """A copy of the tiny tokenizer in which the shapes' special tokens have the ids of its last merges."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    state = json.loads(tokenizer.backend_tokenizer.to_str())
    model = state["model"]
    size = len(model["vocab"])
    names = {i: token for token, i in model["vocab"].items()}
    gone = {names[size - 1 - n] for n in range(len(SPECIALS))}
    model["vocab"] = {token: i for token, i in model["vocab"].items() if token not in gone}
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    model["merges"] = [pair for pair in pairs if not {*pair, "".join(pair)} & gone]
    for n, token in enumerate(SPECIALS):
        model["vocab"][token] = size - 1 - n
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        state["added_tokens"].append({"id": size - 1 - n, "content": token, **flags})
    state["added_tokens"].sort(key=lambda added: added["id"])
    made = Tokenizer.from_str(json.dumps(state))
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>", clean_up_tokenization_spaces=False)
