import { expect, test } from "vitest";
import { colorOf, textColorOn } from "../src/color";
import { decodeMask, isOutline } from "../src/mask";
import { decodePacket, encodePacket } from "../src/packet";
import type { FromClient } from "../src/protocol";
import vectors from "./vectors.json";

test("masks are those that Python encoded", () => {
  for (const { rle, pixels } of vectors.masks) {
    const mask = decodeMask(rle);
    expect([mask.height, mask.width]).toEqual(rle.size);
    expect([...mask.inside]).toEqual(pixels.flat());
  }
});

test("run lengths that do not cover the frame are refused", () => {
  expect(() => decodeMask({ size: [3, 3], counts: "1" })).toThrow("cover 1 pixels");
});

test("a segment has the same colour as in files", () => {
  vectors.colors.forEach(({ color, text }, id) => {
    expect(colorOf(id)).toEqual(color);
    expect(textColorOn(colorOf(id))).toEqual(text);
  });
});

test("Python reads the packets that are sent, and they are read that Python sends", () => {
  const sent = encodePacket(vectors.packet.message as FromClient, Uint8Array.from(vectors.packet.payload));
  const back = decodePacket(sent.buffer);
  expect(back).toEqual({ message: vectors.packet.message, payload: Uint8Array.from(vectors.packet.payload) });
  const { message, payload } = decodePacket(Uint8Array.from(vectors.result.bytes).buffer);
  expect(message).toEqual({ type: "saved", frames: [[4, 0]], asks: 0, wanted: true });
  expect([...payload]).toEqual(vectors.result.payload);
});

test("the outline runs inside of the mask", () => {
  const mask = { height: 4, width: 5, inside: new Uint8Array(20).fill(1) };
  const outline = [...mask.inside.keys()].filter((at) => isOutline(mask, at % 5, Math.floor(at / 5)));
  expect(outline).toEqual([0, 1, 2, 3, 4, 5, 9, 10, 14, 15, 16, 17, 18, 19]);
});
