"""The control flow of SASS, a GPU's machine code as nvdisasm writes it: basic blocks, loops, and the way through one."""

import re
from typing import NamedTuple


class Instruction(NamedTuple):
    opcode: str  # with its modifiers, LDG.E.128
    guard: str  # "@!P0", or nothing
    operands: str

    @property
    def name(self) -> str:
        return self.opcode.split(".")[0]


class Block(NamedTuple):
    code: list[Instruction]
    following: list[int]  # blocks that may come next


class HotPath(NamedTuple):
    elements: int  # that it stores
    least: list[Instruction]  # once round the loop
    most: list[Instruction]
    unit_least: list[Instruction]  # before and after the loop
    unit_most: list[Instruction]


def functions(text: str) -> dict[str, list[str | Instruction]]:
    """{mangled name: labels and instructions, in order} of a disassembly."""
    found: dict[str, list[str | Instruction]] = {}
    for line in text.splitlines():
        if section := re.match(r"\s*\.section\s+\.text\.([\w$]+)", line):
            body = found.setdefault(section[1], [])
        elif label := re.match(r"([.$\w]+):", line):
            body.append(label[1])
        elif code := re.match(r"\s+/\*[0-9a-f]+\*/\s+(?:(@!?U?P\w+) )?([A-Z][\w.]*)\s*(.*?)\s*;", line):
            body.append(Instruction(code[2], code[1] or "", code[3]))
    return found


def blocks_of(body: list[str | Instruction]) -> list[Block]:
    """The basic blocks; the first is the entry. BSYNC goes on behind itself, as ptxas lays code out; a call returns."""
    starts: list[list[Instruction]] = [[]]
    at: dict[str, int] = {}
    for item in body:
        if isinstance(item, str):
            if starts[-1]:
                starts.append([])
            at[item] = len(starts) - 1
            continue
        if item.name == "CALL" and "`(.L" in item.operands:  # how sm_80 leaves a loop: a branch
            item = item._replace(opcode="BRA")
        starts[-1].append(item)
        if item.name in ("BRA", "EXIT", "RET", "CALL", "BRX"):
            starts.append([])
    blocks = []
    for i, code in enumerate(starts):
        last = code[-1] if code else Instruction("NOP", "", "")
        if last.name == "BRX":
            raise ValueError("an indirect branch: the counter does not follow these, write the switch as ifs")
        target = re.search(r"`\(([^)]*)\)", last.operands) if last.name == "BRA" else None
        # A branch may have a second condition: BRA !P3, `(.L).
        always = last.name in ("BRA", "EXIT", "RET") and not last.guard and not re.match(r"!?U?[PR]", last.operands)
        always |= last.name == "RET"
        following = [] if always or i + 1 == len(starts) else [i + 1]
        if target:
            following.append(at[target[1]])
        blocks.append(Block(code, following))
    return blocks


def access_bytes(instruction: Instruction, names: str = "LDG STG LD ST LDGSTS") -> int:
    """Bytes of a memory access of these names, 0 of another instruction."""
    if instruction.name not in names.split():
        return 0
    sizes = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
    return next((sizes[part] for part in instruction.opcode.split(".")[1:] if part in sizes), 4)


def reachable(blocks: list[Block], start: int, allowed: set[int]) -> list[int]:
    """What can be reached from a block through allowed ones, itself first, each after those that lead to it (loops apart)."""
    order, seen, stack = [], {start}, [(start, iter(blocks[start].following))]
    while stack:
        i, following = stack[-1]
        new = next((j for j in following if j in allowed and j not in seen), None)
        if new is None:
            order.append(i)
            stack.pop()
        else:
            seen.add(new)
            stack.append((new, iter(blocks[new].following)))
    return order[::-1]


def loops(blocks: list[Block], allowed: set[int]) -> dict[int, set[int]]:
    """{header: blocks} of every natural loop."""
    order = reachable(blocks, 0, allowed)
    before = {i: [j for j in order if i in blocks[j].following] for i in order}
    dominators = {i: set(order) for i in order} | {0: {0}}
    changed = True
    while changed:
        changed = False
        for i in order[1:]:
            new = {i} | set.intersection(*(dominators[j] for j in before[i]))
            changed |= new != dominators[i]
            dominators[i] = new
    found: dict[int, set[int]] = {}
    for tail in order:
        for header in set(blocks[tail].following) & dominators[tail]:
            inside, todo = found.setdefault(header, {header}), [tail]
            while todo:
                if (i := todo.pop()) not in inside:
                    inside.add(i)
                    todo += before[i]
    return found


def way(blocks: list[Block], inside: set[int], header: int, through: set[int], longest: bool) -> list[Instruction]:
    """What is executed once round a loop: as many wide accesses as any way has, then the most or fewest instructions.

    through: blocks of an inner loop that the way has to touch and that count nothing, or nothing. [] if there is no way.
    """
    best: dict[int, tuple[tuple[int, int], list[Instruction]]] = {header: ((0, 0), [])}
    ends = []
    for i in reachable(blocks, header, inside) if header in inside else ():
        if i not in best:
            continue
        (merit, length), code = best.pop(i)
        if i in through:
            merit = 1
        else:
            code = code + blocks[i].code
            merit += 0 if through else sum(access_bytes(x) for x in blocks[i].code)
            length += len(blocks[i].code) * (1 if longest else -1)
        for j in blocks[i].following:
            if j == header:
                ends.append(((merit, length), code))
            elif j in inside and ((merit, length) > best.get(j, ((-1, 0), []))[0]):
                best[j] = ((merit, length), code)
    return max(ends, key=lambda end: end[0])[1] if ends else []


def sum_stored(code: list[Instruction]) -> int:
    """Bytes that the code stores in global memory."""
    return sum(access_bytes(x, "STG") for x in code)


def hot_path(body: list[str | Instruction], group: int, bytes_written: int) -> HotPath:
    """The hot path of a kernel by the rule above. group: bytes of four elements; bytes_written: of one, all arrays.

    Raises ValueError where no loop has only accesses of four elements.
    """
    blocks = blocks_of(body)
    no_call = {i for i, block in enumerate(blocks) if not any(x.name == "CALL" for x in block.code)}
    wide = {i for i in no_call if all(access_bytes(x) in (0, *range(group, 17)) for x in blocks[i].code)}
    stores = {i for i in no_call if any(x.name == "STG" for x in blocks[i].code)}
    every = {header: inside for header, inside in loops(blocks, no_call).items() if inside & stores}
    found = []
    for header, inside in every.items():
        if any(other != header and other in inside for other in every):
            continue  # not an innermost one
        ways = [way(blocks, inside & wide, header, set(), longest) for longest in (False, True)]
        if not any(x.name == "STG" for x in ways[1]):
            continue
        others = {i for h in every if header not in every[h] for i in every[h]}  # loops of the tails
        rests = {i for i in stores if sum_stored(blocks[i].code) >= 4 * bytes_written}  # and of a last group
        outer, around = next(
            (min(outside, key=lambda loop: len(loop[1])))
            for candidates in (every, loops(blocks, set(range(len(blocks)))))  # the second has calls
            if (outside := [(h, loop) for h, loop in candidates.items() if h != header and header in loop])
        )
        around = around - others - (rests - inside)
        units = [way(blocks, around, outer, inside, longest) for longest in (False, True)]
        found.append(HotPath(sum_stored(ways[1]) // bytes_written, *ways, *units))
    if not found:
        raise ValueError("no loop stores four elements at a time: is a row's aligned case still one access?")
    return max(found, key=lambda path: (path.elements, len(path.most)))
