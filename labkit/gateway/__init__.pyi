from .audit import Audit as Audit
from .masking import mask as mask
from .tenants import TenantRouter as TenantRouter
