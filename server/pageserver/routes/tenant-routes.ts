/** Routes about tenants. */
import { z } from 'zod';
import { newTenantId, type TenantId, tenantId } from '../../../engine/model/ids.ts';
import type { Random } from '../../../engine/services.ts';
import { json, type Route } from '../../process/http-routes.ts';
import { idText, route } from '../../process/path-parameters.ts';
import type { PageserverApi } from './pageserver-api.ts';
import { tenantDetails, tenantInfo } from './schemas.ts';

export function tenantRoutes(pageserver: PageserverApi, random: Random): Route[] {
  return [
    route({
      method: 'GET',
      path: '/v1/tenant',
      operation: 'listTenants',
      summary: 'All tenants',
      answer: json(z.array(tenantInfo), 'In the order of their ids'),
      handle: async () => (await pageserver.listTenants()).map(infoOf),
    }),
    route({
      method: 'POST',
      path: '/v1/tenant',
      operation: 'createTenant',
      summary: 'Makes a tenant',
      description:
        'With the id of one that is there: that one, so that a caller who did not hear the answer may ask again.',
      body: z.strictObject({ new_tenant_id: idText.optional().describe('Default: a new one') }),
      answer: json(idText, 'Its id', 201),
      handle: async ({ body }) => {
        const tenant = body.new_tenant_id ? tenantId(body.new_tenant_id) : newTenantId(random);
        if (!(await pageserver.listTenants()).includes(tenant)) await pageserver.createTenant(tenant);
        return tenant;
      },
    }),
    route({
      method: 'GET',
      path: '/v1/tenant/{tenant_id}',
      operation: 'getTenant',
      summary: 'A tenant with the ids of its timelines',
      answer: json(tenantDetails, 'The tenant'),
      handle: async ({ params: { tenant_id: tenant } }) => {
        const timelines = await pageserver.listTimelines(tenant);
        const sizes = timelines.map((timelineId) => pageserver.physicalSize({ tenantId: tenant, timelineId }));
        const current_physical_size = sizes.reduce((sum, size) => sum + size, 0);
        return { ...infoOf(tenant), current_physical_size, timelines: [...timelines] };
      },
    }),
  ];
}

function infoOf(tenant: TenantId) {
  return { id: tenant, state: { slug: 'Active' as const }, attachment_status: { slug: 'attached' as const } };
}
