/** What the parts of paths in our HTTP APIs stand for, and `route` for paths that are made of them. */
import { z } from 'zod';
import { PageliteError } from '../../engine/errors.ts';
import { type TenantId, type TenantTimelineId, type TimelineId, tenantId, timelineId } from '../../engine/model/ids.ts';
import { type PathParameter, routesWith } from './http-routes.ts';

export const idText = z.string().regex(/^[0-9a-f]{32}$/, 'expected 32 hex digits');

const tenant: PathParameter<TenantId> = { schema: idText.describe('Id of a tenant'), parse: tenantId };
const timeline: PathParameter<TimelineId> = { schema: idText.describe('Id of a timeline'), parse: timelineId };
const importId: PathParameter<string> = {
  schema: z.string().describe('Id of an import, as the request that began it answered'),
  parse: (text) => text,
};
/** Not parsed: keys that a caller thinks up are none to remember (engine/model/key.ts). */
const layerName = /^[0-9A-F]{36}-[0-9A-F]{36}__[0-9A-F]{16}(-[0-9A-F]{16})?$/;
/** A name that is one: nothing else becomes a part of a file's path. */
const layerFileName: PathParameter<string> = {
  schema: z.string().regex(layerName).describe('Name of a layer file: its keys and LSNs'),
  parse: (text) => {
    if (!layerName.test(text)) throw new PageliteError('invalid', `"${text}" is not the name of a layer`);
    return text;
  },
};
/** Of an import: checked against its list of layers. */
const importedLayer: PathParameter<string> = {
  schema: z.string().describe('Name of a layer on the list of the import'),
  parse: (text) => text,
};

export const route = routesWith({
  tenant_id: tenant,
  timeline_id: timeline,
  import_id: importId,
  layer_file_name: layerFileName,
  imported_layer: importedLayer,
});

export const idOf = (params: { readonly tenant_id: TenantId; readonly timeline_id: TimelineId }): TenantTimelineId => ({
  tenantId: params.tenant_id,
  timelineId: params.timeline_id,
});
