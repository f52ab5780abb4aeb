"""Text as LaTeX, in ASCII: labels in any script compile with pdflatex, and without a package.

What LaTeX has a command for becomes that command. An accent goes on its letter; a letter in another font, a sub- or a
superscript becomes what Unicode says that it stands for. What is left is named: "(rocket)", "(U+901A)".
"""

from __future__ import annotations

import re
import unicodedata


def pairs(text: str) -> dict[str, str]:
    """A character and what stands for it, one after the other."""
    words = text.split()
    return dict(zip(words[::2], words[1::2], strict=True))


PLAIN = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "[": "{[}",  # at the start of a line it would be an argument of the \\\\ before it
    "*": "{*}",  # likewise
}
# A character, and the command or the characters that print it in text.
LETTERS = pairs("… dots  § S  ¶ P  © copyright  £ pounds  ß ss  æ ae  Æ AE  œ oe  Œ OE  ø o  Ø O  ł l  Ł L  ı i")
PLAIN |= {character: f"\\{name}{{}}" for character, name in LETTERS.items()}
PLAIN |= pairs("– --  — ---  ‐ -  ‑ -  “ ``  ” ''  „ ,,  ‘ `  ’ '  ‚ ,  ¡ !`  ¿ ?`  ⁄ /")
# A character, and the command that prints it in mathematics.
NAMED = pairs("""
    ± pm  ∓ mp  × times  ✕ times  ✖ times  ✗ times  ✘ times  ÷ div  · cdot  ⋅ cdot  ∘ circ  • bullet  ● bullet  ○ circ
    ★ star  ☆ star  ⊕ oplus  ⊖ ominus  ⊗ otimes  ⊙ odot  ≤ le  ≥ ge  ≪ ll  ≫ gg  « ll  » gg  ≠ ne  ≈ approx  ≡ equiv
    ≃ simeq  ≅ cong  ∼ sim  ∝ propto  ∈ in  ∉ notin  ∋ ni  ⊂ subset  ⊃ supset  ⊆ subseteq  ⊇ supseteq  ∪ cup  ∩ cap
    ∖ setminus  ∅ emptyset  ∧ wedge  ∨ vee  ¬ neg  ∀ forall  ∃ exists  ⊥ perp  ∥ parallel  ∞ infty  ∂ partial  ∇ nabla
    ∑ sum  ∏ prod  ∫ int  √ surd  ✓ surd  ✔ surd  ⟨ langle  ⟩ rangle  ← leftarrow  → rightarrow  ↑ uparrow  ↓ downarrow
    ↔ leftrightarrow  ↕ updownarrow  ↗ nearrow  ↘ searrow  ↖ nwarrow  ↙ swarrow  ↦ mapsto  ⇐ Leftarrow  ⇒ Rightarrow
    ⇑ Uparrow  ⇓ Downarrow  ⇔ Leftrightarrow  ⟵ longleftarrow  ⟶ longrightarrow  ⟹ Longrightarrow  ➔ rightarrow
    ➜ rightarrow  △ triangle  ▲ triangle  ▽ bigtriangledown  ▼ bigtriangledown  ◇ diamond  ◆ diamond  ℓ ell  ℏ hbar
    α alpha  β beta  γ gamma  δ delta  ζ zeta  η eta  θ theta  ι iota  κ kappa  λ lambda  µ mu  μ mu  ν nu  ξ xi  π pi
    ρ rho  σ sigma  ς varsigma  τ tau  υ upsilon  φ varphi  ϕ phi  χ chi  ψ psi  ω omega  ϑ vartheta  ϵ epsilon
    ε varepsilon  Γ Gamma  Δ Delta  Θ Theta  Λ Lambda  Ξ Xi  Π Pi  Σ Sigma  Υ Upsilon  Φ Phi  Ψ Psi  Ω Omega
""")
MATHS = {character: f"\\{name}" for character, name in NAMED.items()}
MATHS |= {"<": "<", ">": ">", "|": "|", "−": "-", "′": "'", "°": "^\\circ"}
ACCENTS = dict(
    zip("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0323\u0327", "`'^~=u.\"rHvdc", strict=True)
)
PLAIN |= dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΧο", "ABEZHIKMNOPTXo", strict=True))  # they look like Latin ones, and have no command


def tex(text: str) -> str:
    """`text` as LaTeX that prints it, or says what there was."""
    return "".join(character if character in KEPT else _other(character) for character in text)


KEPT = {chr(code) for code in range(32, 127)} - PLAIN.keys() - MATHS.keys()


def _other(character: str) -> str:
    """A character that does not stand for itself."""
    if character in PLAIN:
        return PLAIN[character]
    if character in MATHS:
        return f"${MATHS[character]}$"
    how, *parts = unicodedata.decomposition(character).split() or [""]
    if how in ("<super>", "<sub>"):
        shifted = tex("".join(chr(int(part, 16)) for part in parts)).replace("$", "")
        return f"${'^' if how == '<super>' else '_'}{shifted if len(shifted) == 1 else f'{{{shifted}}}'}$"
    if how.startswith("<"):
        return tex("".join(chr(int(part, 16)) for part in parts))
    if len(parts) == 1:  # a letter and its accent
        base, accent = chr(int(how, 16)), ACCENTS.get(chr(int(parts[0], 16)))
        return f"\\{accent}{{{base}}}" if accent and base.isascii() else tex(base)
    name = unicodedata.name(character, "")
    latin = re.fullmatch(r"LATIN (SMALL|CAPITAL) LETTER (\w)( WITH .*)?", name)
    if latin:
        return latin[2] if latin[1] == "CAPITAL" else latin[2].lower()
    kind = unicodedata.category(character)
    if kind[0] == "M" or kind == "Cf":  # a mark by itself, an invisible character
        return ""
    if kind[0] == "Z":
        return " "
    return f"({name.lower() if kind[0] in 'SP' and name else f'U+{ord(character):04X}'})"
