/** The reason of a failed read becomes the DETAIL of PostgreSQL's error: once, in errors that have none, and everything else stays as it is. */
import { protocol } from '@electric-sql/pglite';
import { expect, it } from 'vitest';
import { PageliteError } from '../../engine/errors.ts';
import { tenantId, timelineId } from '../../engine/model/ids.ts';
import { reasonOf, withDetail } from '../../smgr-plugin/error-detail.ts';

const text = (value: string) => [...new TextEncoder().encode(value), 0];

function message(type: string, body: readonly number[]): number[] {
  const length = body.length + 4;
  return [type.charCodeAt(0), length >>> 24, (length >>> 16) & 255, (length >>> 8) & 255, length & 255, ...body];
}

const field = (type: string, value: string) => [type.charCodeAt(0), ...text(value)];
const error = (...fields: number[][]) => message('E', [...fields.flat(), 0]);
const ready = message('Z', [0x49]);
const plain = error(field('S', 'ERROR'), field('C', '58030'), field('M', 'could not read'));

/** Name, message and detail of what a client reads. */
function parse(answer: Uint8Array): { name: string; message?: string; detail?: string | undefined }[] {
  const messages: { name: string; message?: string; detail?: string | undefined }[] = [];
  const parser = new protocol.Parser();
  parser.parse(answer, (each) => messages.push(each as never));
  return messages;
}

it('adds the reason to an error, and its length', () => {
  const [parsed, end] = parse(withDetail(new Uint8Array([...plain, ...ready]), 'block 7 is not here: größer'));
  expect(parsed).toMatchObject({ message: 'could not read', detail: 'block 7 is not here: größer' });
  expect(end?.name).toBe('readyForQuery');
});

it('leaves a DETAIL that PostgreSQL gave, other messages, and what is no answer', () => {
  const detailed = error(field('M', 'could not read'), field('D', 'its own'));
  for (const bytes of [detailed, ready, [], [0x45, 0, 0, 0, 200, 1], [0x45, 0, 0, 0, 0, 0, 0]]) {
    expect(withDetail(new Uint8Array(bytes), 'reason')).toEqual(new Uint8Array(bytes));
  }
});

it('a reason cannot end its field', () => {
  const [parsed] = parse(withDetail(new Uint8Array(plain), 'a\0b'));
  expect(parsed?.detail).toBe('ab');
});

it('a reason names the timeline, once: a stale pageserver speaks of the tenant only', () => {
  const id = { tenantId: tenantId('a'.repeat(32)), timelineId: timelineId('b'.repeat(32)) };
  const fenced = new PageliteError('fenced', `tenant ${id.tenantId} was attached to pageserver 2`);
  expect(reasonOf(fenced, id)).toBe(`${fenced.message} (reading timeline ${id.timelineId})`);
  const damaged = new PageliteError('corrupt', `layer file tenants/x/timelines/${id.timelineId}/y is damaged`);
  expect(reasonOf(damaged, id)).toBe(damaged.message);
});
