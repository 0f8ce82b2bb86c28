/**
 * Routes about the layers of a timeline.
 *
 * A layer's bytes are under `.../content`: Neon's GET and DELETE of the layer itself mean to bring it to the local disk and to evict it.
 */
import type { z } from 'zod';
import { PageliteError } from '../../../engine/errors.ts';
import type { TenantTimelineId } from '../../../engine/model/ids.ts';
import { formatLsn } from '../../../engine/model/lsn.ts';
import type { LayerInfo } from '../../../engine/timeline/pageserver.ts';
import { json, type Route, raw } from '../../process/http-routes.ts';
import { idOf, route } from '../../process/path-parameters.ts';
import type { PageserverApi } from './pageserver-api.ts';
import { layerMapInfo } from './schemas.ts';

/** Bytes of a layer that are in memory at once while it is sent. */
const partBytes = 1024 * 1024;

export function layerRoutes(pageserver: PageserverApi): Route[] {
  const layers = '/v1/tenant/{tenant_id}/timeline/{timeline_id}/layer';
  return [
    route({
      method: 'GET',
      path: layers,
      operation: 'listLayers',
      summary: "A timeline's own layers",
      answer: json(layerMapInfo, 'Those in memory, and its layer files'),
      handle: async ({ params }) => infoOf(await pageserver.listLayers(idOf(params))),
    }),
    route({
      method: 'GET',
      path: `${layers}/{layer_file_name}/content`,
      operation: 'getLayerContent',
      summary: 'A layer file, as it is stored',
      description: 'With a Range header of one range of bytes: that part.',
      answer: raw('application/octet-stream', 'The whole file', {
        headers: { 'Content-Length': 'Bytes', 'Accept-Ranges': 'bytes' },
        otherStatuses: { 206: 'The range that was asked for' },
      }),
      errors: { 416: 'The range is not in the file' },
      handle: async ({ params }, c) => {
        const id = idOf(params);
        const name = params.layer_file_name;
        const file = (await pageserver.listLayers(id)).files.find((layer) => layer.name === name);
        if (file === undefined) {
          throw new PageliteError('notFound', `timeline ${id.timelineId} has no layer ${name}`, { ...id, layer: name });
        }
        const asked = parseRange(c.req.header('range'), file.bytes);
        const headers = { 'content-type': 'application/octet-stream', 'accept-ranges': 'bytes' };
        if (asked === 'outside') {
          const msg = `layer ${name} has ${file.bytes} bytes`;
          return c.json({ msg, kind: 'invalid', data: {} }, 416, { 'content-range': `bytes */${file.bytes}` });
        }
        const { start, end } = asked ?? { start: 0, end: file.bytes };
        return new Response(layerStream(pageserver, id, name, start, end), {
          status: asked === null ? 200 : 206,
          headers: {
            ...headers,
            'content-length': String(end - start),
            ...(asked !== null && { 'content-range': `bytes ${start}-${end - 1}/${file.bytes}` }),
          },
        });
      },
    }),
  ];
}

/**
 * One range of bytes of a file of `size` (RFC 9110); null for the whole file: no range is asked for, several are, or in a unit that is not
 * bytes.
 */
export function parseRange(
  header: string | undefined,
  size: number,
): { start: number; end: number } | 'outside' | null {
  const match = /^bytes=(\d{0,15})-(\d{0,15})$/i.exec(header?.replaceAll(' ', '') ?? '');
  if (match === null || (match[1] === '' && match[2] === '')) return null;
  if (match[1] === '') {
    const suffix = Math.min(Number(match[2]), size);
    return suffix === 0 ? 'outside' : { start: size - suffix, end: size };
  }
  const start = Number(match[1]);
  const last = match[2] === '' ? size - 1 : Number(match[2]);
  if (last < start && match[2] !== '') return null;
  return start >= size ? 'outside' : { start, end: Math.min(last + 1, size) };
}

/** Reads as fast as the peer does. A file that is gone meanwhile cuts the answer short, which the peer sees by its length. */
function layerStream(
  pageserver: PageserverApi,
  id: TenantTimelineId,
  name: string,
  start: number,
  end: number,
): ReadableStream<Uint8Array> {
  let at = start;
  return new ReadableStream({
    async pull(controller) {
      const bytes = await pageserver.readLayer(id, name, { start: at, end: Math.min(at + partBytes, end) });
      if (bytes === null || bytes.length === 0) {
        throw new PageliteError('corrupt', `layer ${name} is missing or cut short`, { ...id, layer: name });
      }
      at += bytes.length;
      controller.enqueue(bytes);
      if (at >= end) controller.close();
    },
  });
}

/** Neon's LayerMapInfo. */
function infoOf({ inMemory, files }: LayerInfo): z.input<typeof layerMapInfo> {
  return {
    in_memory_layers: inMemory.map(({ startLsn, endLsn }) =>
      endLsn === null
        ? { kind: 'Open', lsn_start: formatLsn(startLsn) }
        : { kind: 'Frozen', lsn_start: formatLsn(startLsn), lsn_end: formatLsn(endLsn) },
    ),
    historic_layers: files.map(({ name, bytes, kind, startLsn, endLsn, isLocal }) => {
      const file = { layer_file_name: name, layer_file_size: bytes, lsn_start: formatLsn(startLsn), remote: !isLocal };
      return kind === 'image' ? { kind: 'Image', ...file } : { kind: 'Delta', ...file, lsn_end: formatLsn(endLsn) };
    }),
  };
}
